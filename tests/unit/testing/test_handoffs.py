"""From the first response to the last one."""

from __future__ import annotations

import pytest

from durable_core import Request, Response
from durable_core.errors import NotFinishedError
from durable_core.flow.options import EndpointOptions
from durable_core.routing import Application
from durable_core.sync import step
from durable_core.testing.harnesses import harness
from support.harness_sample import plain_app, sample


@pytest.mark.parametrize("face", ["def", "async def"])
def test_follow_goes_to_the_end(face: str) -> None:
    """As a client that waits does: the clock moves as far as it must, and waits time out."""
    app = sample(face)
    with harness(app.durable) as t:
        start = t.clock.now()
        t.fail_step("charge")
        reply = t.client(app.order).get("/order?id=7", follow=True)

    assert {"steps": ["RESERVE", "CHARGE"], "approved": False} == reply.json()
    assert (1 + 24 * 3600 + 3600) * 1000 == t.clock.now() - start


def test_result_does_not_move_the_clock() -> None:
    """A run without a result says what it waits for."""
    app = sample("def")
    with harness(app.durable) as t:
        reply = t.client(app.order).get("/order?id=7")
        with pytest.raises(NotFinishedError) as found:
            reply.result()
        assert (
            f"run {reply.run_id} of 'GET /order' is suspended and has no result: "
            "step 'rest' sleeps for another 86400 s" == str(found.value)
        )


def elsewhere(run_id: str, token: str) -> str:
    return f"https://wait.example/{run_id}?{token}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"async_redirect_url": "/wait"},
        {"async_redirect_url": "https://wait.example/"},
        {"async_redirect_url": elsewhere},
        {"async_response": "token"},
    ],
)
@pytest.mark.parametrize("routed", [True, False])
def test_wherever_the_client_is_sent(options: EndpointOptions, routed: bool) -> None:
    """The result is that of the run, by the endpoint's wait URL, a wait route, or another host."""
    durable = plain_app()

    @durable.endpoint(**options)
    def endpoint(request: Request) -> Response:
        step.sleep("nap", "1s")
        return Response.text("up", 202)

    application = Application(
        durable, {"POST /it": endpoint, "GET /wait": durable.endpoint_proxy()}
    )
    with harness(durable) as t:
        reply = t.client(application if routed else endpoint).post("/it")
        assert reply.is_handoff
        t.advance("1s")
        assert (202, "up") == (reply.result().status, reply.result().text)


def test_asking_the_wait_url_oneself() -> None:
    """A wait URL is answered at once: sent on while the run goes on, then with its response."""
    app = sample("def")
    with harness(app.durable) as t:
        client = t.client(app.order)
        reply = client.get("/order?id=7")
        waiting = client.get("/order" + reply.headers["location"])
        assert (303, True, reply.run_id) == (waiting.status, waiting.is_handoff, waiting.run_id)
        t.advance("2 days")
        assert 201 == client.get("/order" + waiting.headers["location"]).status
        assert 201 == waiting.result().status
