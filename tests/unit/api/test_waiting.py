"""What a client may ask at its wait URL besides the result: the status, and the end of its run."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from durable_core import Durable, Event, Request, Response
from durable_core.api.adapter import HTTPHandler, endpoint_adapter
from durable_core.api.step import step, sync_step
from durable_core.routing import Application
from durable_core.runners.settings import Settings
from durable_core.stores.memory import MemoryStore
from support.harness import AT_ONCE, FakeClock, Lab, lab, request, until

KINDS = pytest.mark.parametrize("kind", ["def", "async"])
LOOPS = pytest.mark.parametrize("on_loop", [False, True], ids=["thread", "loop"])


@pytest.fixture
def process() -> Iterator[Lab]:
    with lab() as made:
        yield made


def ask(endpoint: HTTPHandler, url: str, method: str = "GET", *, on_loop: bool = False) -> Response:
    """Ask, in a thread or on an event loop."""
    asked = request(url, method)
    if not on_loop:
        return endpoint.handle(asked, max_wait=0.05)
    return asyncio.run(endpoint.handle_async(asked, max_wait=0.05))


def body(response: Response) -> Any:
    """Return the JSON of a response."""
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def waiting(process: Lab, kind: str, **options: Any) -> HTTPHandler:
    """Return an endpoint with a step, and a wait for an event."""

    def plain(request: Request) -> str:
        sync_step.run("reserve", lambda: "secret result")
        sync_step.wait_for_event("approval", event="go", timeout="1h")
        return "gone"

    async def coroutine(request: Request) -> str:
        await step.run("reserve", lambda: "secret result")
        await step.wait_for_event("approval", event="go", timeout="1h")
        return "gone"

    handler: Any = plain if kind == "def" else coroutine
    return process.endpoint(handler, name="checkout", labels={"shop": "corner"}, **options)


def begun(endpoint: HTTPHandler) -> str:
    """Begin a run; return its wait URL."""
    return "/it" + endpoint.handle(request("/it", "POST")).headers["location"]


# -- status -----------------------------------------------------------------------------------


@KINDS
@LOOPS
def test_the_status_of_a_run(process: Lab, kind: str, on_loop: bool) -> None:
    """The client sees how far its run is, and no result of a step."""
    endpoint = waiting(process, kind)
    url = begun(endpoint)
    until(lambda: ["suspended"] == [run.status for run in process.durable.runs.list()])
    answer = ask(endpoint, f"{url}&durable-status", on_loop=on_loop)

    assert (200, "no-store") == (answer.status, answer.headers["cache-control"])
    assert "application/json" == answer.headers["content-type"]
    shown = body(answer)
    [run] = process.durable.runs.list()
    [current] = shown.pop("steps")
    assert shown == {
        "run_id": run.id,
        "name": "checkout",
        "status": "suspended",
        "started": run.started.isoformat(),
        "ended": None,
        "due": None if run.due is None else run.due.isoformat(),
        "labels": {"shop": "corner"},
        "steps_done": 1,
        "expires": None,
    }
    assert ("approval", "wait", "waiting", 0) == tuple(
        current[name] for name in ("name", "kind", "status", "attempts")
    )
    assert shown["due"] == current["due"]
    assert isinstance(answer.body, bytes)
    assert b"secret" not in answer.body


@KINDS
def test_the_status_at_the_end(process: Lab, kind: str) -> None:
    """It says until when the result is kept, as the result itself does."""
    endpoint = waiting(process, kind)
    url = begun(endpoint)
    process.durable.send(Event("go"))
    final = endpoint.handle(request(url), max_wait=20)
    shown = body(ask(endpoint, f"{url}&durable-status=1"))
    assert ("completed", 2, []) == (shown["status"], shown["steps_done"], shown["steps"])
    ended, expires = (datetime.fromisoformat(shown[name]) for name in ("ended", "expires"))
    assert 6.9 < (expires - ended).total_seconds() / 86_400 <= 7
    sunset = parsedate_to_datetime(final.headers["sunset"])
    assert 0 <= (expires - sunset).total_seconds() < 1


def test_the_status_of_a_step_that_runs(process: Lab) -> None:
    """Its name and its attempt are shown while it is being called."""
    gate = threading.Event()

    def work() -> None:
        gate.wait(20)

    def handler(request: Request) -> None:
        sync_step.run("render", work)

    endpoint = process.endpoint(handler, max_sync_runtime="50ms")
    url = begun(endpoint)
    shown = body(ask(endpoint, f"{url}&durable-status"))
    gate.set()
    assert ("running", 0) == (shown["status"], shown["steps_done"])
    assert [("render", "running", 1)] == [
        (each["name"], each["status"], each["attempts"]) for each in shown["steps"]
    ]


def test_the_status_of_a_step_that_is_tried_again() -> None:
    """Its failures are counted, and it says when it is due; the error is not shown."""
    clock = FakeClock()

    def handler(request: Request) -> None:
        sync_step.run("charge", fail)

    def fail() -> None:
        raise OSError("secret address")

    with lab(clock=clock) as process:
        url = begun(endpoint := process.endpoint(handler))
        until(lambda: process.suspended() > 0)
        answer = ask(endpoint, f"{url}&durable-status")
    [current] = body(answer)["steps"]
    assert ("charge", "retrying", 1) == tuple(
        current[name] for name in ("name", "status", "attempts")
    )
    assert isinstance(answer.body, bytes)
    assert current["due"] is not None
    assert b"secret" not in answer.body


def test_head(process: Lab) -> None:
    """HEAD has the same status and headers."""
    endpoint = waiting(process, "def")
    url = begun(endpoint)
    assert 200 == ask(endpoint, f"{url}&durable-status", "HEAD").status


@LOOPS
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_bad_tokens_tell_nothing(process: Lab, method: str, on_loop: bool) -> None:
    """The answer is the same whether or not there is such a run, and nothing is cancelled."""
    endpoint = waiting(process, "def", allow_cancel=True)
    url = begun(endpoint)
    run_id = process.durable.runs.list()[0].id
    answers = [
        ask(endpoint, f"/it?durable-run={run}&durable-token={token}&durable-status", method)
        for run in (run_id, "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        for token in ("x", url.partition("durable-token=")[2][:-1] + "!")
    ]
    assert [403] * 4 == [each.status for each in answers]
    assert 1 == len({each.body for each in answers})


def test_a_run_that_is_gone(process: Lab) -> None:
    """A run that was deleted is gone, for every question."""
    endpoint = waiting(process, "def", allow_cancel=True)
    url = begun(endpoint)
    process.durable.send(Event("go"))
    endpoint.handle(request(url), max_wait=20)
    process.durable.runs.delete(process.durable.runs.list()[0].id)
    answers = [ask(endpoint, f"{url}&durable-status"), ask(endpoint, url, "DELETE")]
    assert [410, 410] == [each.status for each in answers]


def test_the_proxy(process: Lab) -> None:
    """A wait route of the application's own answers the same questions, with CORS."""
    endpoint = waiting(process, "def", async_redirect_url="/results", allow_cancel=True)
    proxy: HTTPHandler = process.durable.endpoint_proxy()
    routes = Application(process.durable, {"POST /it": endpoint, "GET /results": proxy})
    url = routes.handle(request("/it", "POST")).headers["location"]
    shown = routes.handle(request(f"{url}&durable-status"))
    assert (200, 1) == (shown.status, body(shown)["steps_done"])
    gone = routes.handle(request(url, "DELETE"))
    assert (204, "*") == (gone.status, gone.headers["access-control-allow-origin"])
    assert ["cancelled"] == [run.status for run in process.durable.runs.list()]


# -- cancel -----------------------------------------------------------------------------------


@KINDS
@LOOPS
def test_cancel(process: Lab, kind: str, on_loop: bool) -> None:
    """DELETE cancels the run, as often as it is sent; its clients get 410."""
    endpoint = waiting(process, kind, allow_cancel=True)
    url = begun(endpoint)
    answers = [ask(endpoint, url, "DELETE", on_loop=on_loop) for _ in range(2)]
    assert [(204, b"")] * 2 == [(each.status, each.body) for each in answers]
    assert "no-store" == answers[0].headers["cache-control"]
    [run] = process.durable.runs.list()
    assert ("cancelled", "by its client") == (run.status, run.cancel_reason)
    assert 410 == ask(endpoint, url).status


def test_cancel_by_a_route_for_post(process: Lab) -> None:
    """The routes of an application let DELETE through to the wait URL of an endpoint."""
    endpoint = waiting(process, "def", allow_cancel=True)
    routes = Application(process.durable, {"POST /it": endpoint})
    url = "/it" + routes.handle(request("/it", "POST")).headers["location"]
    assert 204 == routes.handle(request(url, "DELETE")).status
    assert 405 == routes.handle(request("/it", "DELETE")).status


@KINDS
@pytest.mark.parametrize("options", [{}, {"allow_cancel": False}])
def test_cancel_is_off(process: Lab, kind: str, options: Any) -> None:
    """Without ``allow_cancel`` nothing is done, and the client learns what is allowed."""
    endpoint = waiting(process, kind, **options)
    url = begun(endpoint)
    answer = ask(endpoint, url, "DELETE")
    assert (405, "GET, HEAD") == (answer.status, answer.headers["allow"])
    until(lambda: ["suspended"] == [run.status for run in process.durable.runs.list()])


def test_the_endpoint_of_the_run_decides(process: Lab) -> None:
    """The URL of another endpoint does not help."""
    closed = waiting(process, "def", function_id="closed")
    open_ = process.endpoint(lambda request: "x", function_id="open", allow_cancel=True)
    url = begun(closed)
    assert 405 == ask(open_, url, "DELETE").status


@KINDS
def test_a_run_that_has_ended(process: Lab, kind: str) -> None:
    """It is not cancelled: 409, and the result stays."""
    endpoint = waiting(process, kind, allow_cancel=True)
    url = begun(endpoint)
    process.durable.send(Event("go"))
    assert b'"gone"' == endpoint.handle(request(url), max_wait=20).body
    answer = ask(endpoint, url, "DELETE")
    assert 409 == answer.status
    assert b"urn:durable:run-not-cancelled" in (answer.body or b"")  # type: ignore[operator]
    assert b'"gone"' == ask(endpoint, url).body


def test_a_run_with_steps_to_undo() -> None:
    """202 while they are undone, with how far that is."""
    opened = threading.Event()
    done: list[str] = []

    def undo(value: object) -> None:
        opened.wait(20)
        done.append("undone")

    def handler(request: Request) -> None:
        sync_step.options(undo=undo).run("reserve", lambda: 1)
        sync_step.wait_for_event("approval", event="go", timeout="1h")

    with lab(retry=AT_ONCE, settings=Settings(unwind_time=2.0)) as process:
        endpoint = process.endpoint(handler, allow_cancel=True)
        url = begun(endpoint)
        until(lambda: process.suspended() > 0)
        answer = ask(endpoint, url, "DELETE")
        assert (202, "cancelling") == (answer.status, body(answer)["status"])
        opened.set()
        until(lambda: ["cancelled"] == [run.status for run in process.durable.runs.list()])
        assert 204 == ask(endpoint, url, "DELETE").status
    assert ["undone"] == done


@pytest.mark.parametrize("value", ["yes", 1, 0, []])
def test_bad_values(process: Lab, value: Any) -> None:
    """Anything but True, False and None is refused when the endpoint is made."""
    with pytest.raises(TypeError, match="allow_cancel must be True or False"):
        waiting(process, "def", allow_cancel=value)


def test_a_response_with_a_sunset_of_its_own(process: Lab) -> None:
    """It is left as it is."""

    def handler(request: Request) -> Response:
        sync_step.wait_for_event("go", event="go", timeout="1h")
        return Response.text("x", headers={"sunset": "Sun, 06 Nov 1994 08:49:37 GMT"})

    endpoint = process.endpoint(handler)
    url = begun(endpoint)
    process.durable.send(Event("go"))
    final = endpoint.handle(request(url), max_wait=20)
    assert ("Sun, 06 Nov 1994 08:49:37 GMT",) == final.headers.get_all("sunset")


# -- tokens of others -------------------------------------------------------------------------


class Neighbours:
    """Two applications on one store, each with two runs that wait, and may be cancelled."""

    def __init__(self) -> None:
        store = MemoryStore()
        self.apps = [
            Durable(id=name, endpoint_adapter=endpoint_adapter, store=store)
            for name in ("one", "two")
        ]
        self.routes: list[tuple[int, str, HTTPHandler]] = []
        self.tokens: list[tuple[int, str, str]] = []
        for place, app in enumerate(self.apps):

            def waits(asked: Request) -> str:
                sync_step.wait_for_callback("answer", timeout="1h")
                return "secret result"

            endpoint: HTTPHandler = app.endpoint(function_id="it", allow_cancel=True)(waits)
            proxy: HTTPHandler = app.endpoint_proxy()
            names = "durable-run={}&durable-token={}", "runId={}&token={}"
            self.routes += [(place, names[0], endpoint), (place, names[1], proxy)]
            for _ in range(2):
                where = parse_qs(urlsplit(endpoint.handle(request()).headers["location"]).query)
                self.tokens.append((place, where["durable-run"][0], where["durable-token"][0]))

    def close(self) -> None:
        for app in self.apps:
            app.stop(0)

    def answers(self, names: str, route: HTTPHandler, run_id: str, token: str) -> list[Response]:
        """Ask everything that a wait URL answers."""
        url = "http://h/it?" + names.format(quote(run_id), quote(token))
        fields = {"accept": "text/event-stream"}
        asked = [
            Request(method="DELETE", url=url),
            Request(method="GET", url=url + "&durable-status"),
            Request(method="GET", url=url, headers=fields),
            Request(method="GET", url=url),
        ]
        return [route.handle(each, max_wait=0.01) for each in asked]

    def statuses(self) -> list[str]:
        return [run.status for app in self.apps for run in app.runs.list()]


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Neighbours]:
    made = Neighbours()
    yield made
    made.close()


def test_a_token_opens_nothing_of_another_run(neighbours: Neighbours) -> None:
    """Neither one of the same application, nor of another one on the same store."""
    until(lambda: ["suspended"] * 4 == neighbours.statuses())
    for owner, run_id, _ in neighbours.tokens:
        for app, names, route in neighbours.routes:
            for signer, signed, token in neighbours.tokens:
                if (owner, run_id) == (signer, signed) and owner == app:
                    continue
                answers = neighbours.answers(names, route, run_id, token)
                assert {403} == {each.status for each in answers}
                assert not [each for each in answers if b"secret" in repr(each.body).encode()]
    assert ["suspended"] * 4 == neighbours.statuses()


@given(data=st.data())
def test_a_token_that_was_tampered_with_opens_nothing(
    neighbours: Neighbours, data: st.DataObject
) -> None:
    """Whatever is changed in it, or in the id of the run: the answer is the refusal of all."""
    owner, run_id, token = data.draw(st.sampled_from(neighbours.tokens))
    other = data.draw(st.sampled_from(neighbours.tokens))
    place = data.draw(st.integers(0, len(token) - 1))
    some = data.draw(st.text(max_size=3))
    wrong = data.draw(
        st.sampled_from(
            [
                token[:place] + some + token[place + 1 :],
                token[:place] + some + token[place:],
                token[:place],
                token[place:],
                token.swapcase(),
                token + some,
                token[:16] + other[2][16:],
                "d1.9999999999999999." + token.rpartition(".")[2],
                "c1." + token.partition(".")[2],
                "",
            ]
        )
    )
    claimed = data.draw(st.sampled_from([run_id, run_id.lower(), run_id + some, other[1]]))
    assume(wrong != token or claimed not in (run_id, other[1]))
    assume((claimed, wrong) not in {(each[1], each[2]) for each in neighbours.tokens})
    for app, names, route in neighbours.routes:
        if app == owner and claimed and wrong:
            answers = neighbours.answers(names, route, claimed, wrong)
            assert {403} == {each.status for each in answers}
            assert 1 == len({each.body for each in answers})
    assert ["suspended"] * 4 == neighbours.statuses()
