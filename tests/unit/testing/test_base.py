"""What goes wrong in a test, and what it sees of runs."""

from __future__ import annotations

import asyncio

import pytest

from durable_core import Durable, Event, Request, endpoint_adapter, step, stream
from durable_core.api.adapter import HTTPHandler
from durable_core.codec.sse import SSEDecoder
from durable_core.errors import RunNotFoundError
from durable_core.sync import step as sync_step
from durable_core.sync import stream as sync_stream
from durable_core.testing.harnesses import harness
from support.harness_sample import plain_app, sample
from support.streams import described

FACES = pytest.mark.parametrize("face", ["def", "async def"])


def once(face: str, plan: str, step_id: str) -> tuple[list[str], object, int]:
    """Take an order with one fault; return what its steps did, its answer and the run's epoch."""
    app = sample(face)
    with harness(app.durable) as t:
        getattr(t, plan)(step_id)
        reply = t.client(app.order).get("/order?id=7")
        t.advance("1 day 1s")
        t.send("order/approved", {"id": "7"})
        return app.calls, reply.result().json(), t._record(reply).run.epoch


@FACES
@pytest.mark.parametrize(
    ("plan", "step_id", "calls"),
    [
        ("fail_step", "reserve", ["reserve", "charge"]),
        ("fail_step", "charge", ["reserve", "charge"]),
        ("crash_after", "reserve", ["reserve", "charge"]),
        ("crash_after", "charge", ["reserve", "charge"]),
        ("crash_before", "charge", ["reserve", "charge"]),
        ("crash_during", "charge", ["reserve", "charge", "charge"]),
        ("crash_after", "rest", ["reserve", "charge"]),
        ("crash_after", "approval", ["reserve", "charge"]),
        ("crash_after", "tell", ["reserve", "charge"]),
    ],
)
def test_the_answer_is_the_same_whatever_goes_wrong(
    face: str, plan: str, step_id: str, calls: list[str]
) -> None:
    """No step runs again after its checkpoint; one that dies before it does."""
    did, answer, _ = once(face, plan, step_id)

    assert calls == did
    assert {"steps": ["RESERVE", "CHARGE"], "approved": True} == answer


@FACES
def test_a_crash_is_a_take_over(face: str) -> None:
    """A failed step costs the run one epoch, its claim; a crash another one, that of its owner."""
    _, _, failed = once(face, "fail_step", "charge")
    _, _, crashed = once(face, "crash_after", "charge")

    assert (4, 5) == (failed, crashed)


@FACES
def test_crash_before_the_first_checkpoint(face: str) -> None:
    """Nothing was begun for the client, which loses its connection."""
    app = sample(face)
    with harness(app.durable) as t:
        t.crash_before("reserve")
        client = t.client(app.order)
        with pytest.raises(ConnectionResetError, match="the process died"):
            client.get("/order?id=7")
        assert [] == t.runs()
        assert client.get("/order?id=7").is_handoff

    assert ["reserve", "charge"] == app.calls


def test_crash_again_and_again() -> None:
    """A run that crashes too often in a row fails."""
    app = sample("def")
    with harness(app.durable) as t:
        t.crash_before("charge", times=11)
        reply = t.client(app.order).get("/order?id=7", follow=True)

    assert (500, True) == (reply.status, "crashed" in reply.text)


@FACES
def test_replaying_everything_changes_nothing(face: str) -> None:
    """A deterministic handler does the same, and every step of it runs once."""
    app = sample(face)
    with harness(app.durable) as t:
        t.replay_everything()
        reply = t.client(app.order).get("/order?id=7")
        t.advance("1 day")
        t.send("order/approved", {"id": "7"})

        assert {"steps": ["RESERVE", "CHARGE"], "approved": True} == reply.result().json()
        assert 1 == len(t.sent_events("order/done"))
    assert ["reserve", "charge"] == app.calls


def test_events_of_the_test_are_not_those_of_the_application() -> None:
    """``sent`` tells what steps and the application's code have sent, by name."""
    app = sample("def")
    with harness(app.durable) as t:
        assert "e1" == t.send("order/approved", {"id": "7"}, id="e1")
        t.client(app.order).get("/order?id=7", follow=True)
        app.durable.send(Event("news", id="n1"))
        assert ["order/done", "news"] == [event.name for event in t.sent_events()]
        assert [] == t.sent_events("order/approved")


def test_run_of_a_reply() -> None:
    """A run is known by its id or a reply; one without a step has left no record."""
    app = sample("def")
    durable = app.durable

    @durable.endpoint(function_id="stepless")
    def stepless(request: Request) -> None: ...

    with harness(durable) as t:
        reply = t.client(app.order).get("/order?id=7")
        assert reply.run_id is not None
        assert t.run(reply) == t.run(reply.run_id)
        assert [reply.run_id] == [run.id for run in t.runs()]
        with pytest.raises(RunNotFoundError, match="ended before its first step"):
            t.run(t.client(stepless).get("/"))
        refused = t.client(stepless).request("BREW", "/")
        with pytest.raises(ValueError, match="does not come from a run"):
            t.steps(refused)


def test_faults_on_an_event_loop() -> None:
    """In an asynchronous test, too, a plan is a plan."""
    app = sample("async def")

    async def main() -> tuple[object, list[int]]:
        async with harness(app.durable) as t:
            t.crash_during("reserve")
            t.fail_step("charge")
            with pytest.raises(ConnectionResetError):
                await t.client(app.order).get("/order?id=7")
            reply = await t.client(app.order).get("/order?id=7", follow=True)
            return reply.json(), [step.attempts for step in t.steps(reply)]

    answer, attempts = asyncio.run(main())
    assert {"steps": ["RESERVE", "CHARGE"], "approved": False} == answer
    assert [1, 2, 1, 1, 1] == attempts
    assert ["reserve", "reserve", "charge"] == app.calls


def test_plain_app_is_untouched_afterwards() -> None:
    """Plans end with their harness."""
    durable = plain_app()
    with harness(durable) as t:
        t.replay_everything()
    with harness(durable) as t:
        assert [] == t.runs()


def chatty(face: str) -> tuple[Durable[HTTPHandler], HTTPHandler]:
    """An endpoint that streams from a step that may fail, and from outside steps."""
    durable: Durable[HTTPHandler] = Durable(id="chatty", endpoint_adapter=endpoint_adapter)

    def work(text: str) -> str:
        sync_stream.push({"text": text})
        return text

    def handler(request: Request) -> str:
        sync_stream.push("outside")
        sync_step.run("b", work, sync_step.run("a", work, "x"))
        return "done"

    async def async_handler(request: Request) -> str:
        stream.push("outside")
        await step.run("b", work, await step.run("a", work, "x"))
        return "done"

    made: HTTPHandler = durable.endpoint(function_id="it")(
        handler if face == "def" else async_handler
    )
    return durable, made


@FACES
@pytest.mark.parametrize("plan", ["fail_step", "crash_before", "crash_during", "crash_after"])
def test_what_was_streamed(face: str, plan: str) -> None:
    """What stays is seen in order, whatever went wrong and was rolled back."""
    durable, handler = chatty(face)
    with harness(durable) as t:
        getattr(t, plan)("b")
        reply = t.client(handler).get("/")
        t.advance("1 day")

        assert ["outside", {"text": "x"}, {"text": "x"}] == t.stream_data(reply)


@FACES
def test_a_client_that_follows(face: str) -> None:
    """A request for an event stream has the stream as its body."""
    durable, handler = chatty(face)
    with harness(durable) as t:
        reply = t.client(handler).get("/", headers={"accept": "text/event-stream"})
        told = [described(event) for event in SSEDecoder().feed(reply.body)]

        assert ["meta", "-: outside", "a: {'text': 'x'}", "commit a", "redirect"] == told[:5]
        assert '200: "done"' == told[-1]
        assert 2 == len(t.steps(reply))
