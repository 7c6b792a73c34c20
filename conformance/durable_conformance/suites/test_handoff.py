"""The handoff: why a client is sent to a wait URL, and what it is told."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from durable_conformance.contract import Capability, ServerSubject
from durable_conformance.deployment import Deployment
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import LONG_NAP, NAP, CallLog, Program, Script, until
from durable_conformance.wire import Reply, head_of
from durable_core import Event, HTTPError, Response
from durable_core.model.run import Phase
from durable_core.ports import RunFilter

_BINARY = bytes(range(256)) * 20
_REASONS = ["step-retry", "sleep", "wait", "handler-retry"]


def _final() -> Response:
    fields = {"x-own": "1", "set-cookie": "a=1; Path=/", "content-type": "x/y"}
    return Response(status=201, headers=fields, body=_BINARY)


def _program(reason: str, call_log: CallLog) -> Program:
    """Return a program of three parts, the second of which cannot finish at once."""

    def program(request: Any, step: Any) -> Script:
        yield step.run("before", call_log.record, "before", 0)
        if reason == "step-retry":
            yield step.run("between", call_log.fail_first, "between", 1, RuntimeError("try again"))
        elif reason in ("sleep", "long sleep"):
            yield step.sleep("between", NAP if reason == "sleep" else LONG_NAP)
        elif reason == "wait":
            yield step.wait_for_event("between", event="go", timeout=20)
        elif call_log.record("handler", call_log.count("handler")) == 0:
            raise RuntimeError("try the handler again")
        yield step.run("after", call_log.record, "after", 0)
        return _final()

    return program


def _assert_final(reply: Reply) -> None:
    assert (201, _BINARY) == (reply.status, reply.body)
    assert ("1", "x/y") == (reply.get("x-own"), reply.get("content-type"))
    assert ["a=1; Path=/"] == reply.all("set-cookie")


def _assert_private(reply: Reply) -> None:
    """What carries a token is kept by nobody."""
    assert ["no-store"] == reply.all("cache-control")
    assert ["no-referrer"] == reply.all("referrer-policy")


@requirement("H1")
@pytest.mark.parametrize("reason", _REASONS)
@pytest.mark.parametrize(("method", "status"), [("GET", 302), ("POST", 303)])
def test_reasons(deployment: Deployment, reason: str, method: str, status: int) -> None:
    """The client is redirected at once, and in the end has the handler's own response."""
    call_log = CallLog()
    with deployment.serving(_program(reason, call_log)) as server:
        first = server.ask(method, "/it")
        assert (status, b"") == (first.status, first.body)
        server.settle()
        server.durable.send(Event("go"))
        _assert_final(server.follow("/it", first))

    assert (1, 1) == (call_log.count("before"), call_log.count("after"))


@requirement("H2")
def test_the_redirect(deployment: Deployment) -> None:
    """It is a query-only relative reference, which holds behind any proxy, and is private."""
    with deployment.serving(_program("long sleep", CallLog())) as server:
        reply = server.ask("GET", "/it?x=1")

    location = urlsplit(reply.get("location") or "")
    assert ("", "", "") == (location.scheme, location.netloc, location.path)
    assert {"durable-run", "durable-token"} == set(parse_qs(location.query))
    _assert_private(reply)


@requirement("H3")
@pytest.mark.parametrize(
    ("make", "status", "body"),
    [
        (lambda: Response.json("hello world", 202), 202, b'"hello world"'),
        (lambda: "plain", 200, b'"plain"'),
        (lambda: HTTPError(404, "no such trip"), 404, None),
        (lambda: Response(status=204, headers={"x-own": "1"}), 204, b""),
        (lambda: Response(body=b"\x00" * 300_000), 200, b"\x00" * 300_000),
        (lambda: Response(status=500, body=b"mine"), 500, b"mine"),
    ],
    ids=["202", "value", "HTTPError", "204", "large", "500"],
)
def test_exact_responses(
    deployment: Deployment, make: Any, status: int, body: bytes | None
) -> None:
    """Whatever the handler answers arrives by the wait URL as it would have arrived directly, but
    for fields that keep what a token has opened with its client.
    """

    def program(request: Any, step: Any) -> Script:
        yield step.run("a", lambda: None)
        if "nap" in request.query:
            yield step.sleep("nap", NAP)
        yield step.run("b", lambda: None)
        made = make()
        if isinstance(made, Exception):
            raise made
        return made

    with deployment.serving(program) as server:
        direct = server.ask("GET", "/it")
        waited = server.finish("GET", "/it?nap")

    assert (status, direct.body) == (waited.status, waited.body)
    assert body is None or body == waited.body
    assert _comparable(direct) == _comparable(waited)


@requirement("H3")
@needs(Capability.REPEATED_FIELDS)
def test_repeated_fields_after_a_handoff(deployment: Deployment) -> None:
    """They stay apart at the wait URL, too, in their order."""
    cookies = ["b=2; Path=/", "a=1; Path=/"]

    def program(request: Any, step: Any) -> Script:
        yield step.sleep("nap", NAP)
        return Response(headers=[("set-cookie", cookie) for cookie in cookies])

    with deployment.serving(program) as server:
        assert cookies == server.finish("GET", "/it").all("set-cookie")


def _comparable(reply: Reply) -> tuple[int, list[tuple[str, str]]]:
    others = {"date", "server", "connection", "keep-alive"}
    others |= {"cache-control", "referrer-policy", "sunset"}  # of the wait URL
    return reply.status, [field for field in reply.fields if field[0] not in others]


@requirement("H4")
def test_a_token_in_place_of_the_redirect(deployment: Deployment) -> None:
    """200 with the run's id and a token, which open the result."""
    with deployment.serving(_program("sleep", CallLog()), async_response="token") as server:
        reply = server.ask("POST", "/it")
        assert (200, "application/json") == (reply.status, reply.get("content-type"))
        assert {"run_id", "token"} == set(reply.json())
        _assert_private(reply)
        run_id, token = reply.json()["run_id"], reply.json()["token"]
        target = f"/it?durable-run={run_id}&durable-token={token}"
        _assert_final(server.finish("GET", target))


@requirement("H5")
def test_a_wait_url_of_ones_own(deployment: Deployment) -> None:
    """A path is sent path-absolute, with the run's id and token added to its own query."""
    with deployment.serving(
        _program("sleep", CallLog()),
        more=lambda durable: {"GET,HEAD,OPTIONS /poll": durable.endpoint_proxy()},
        async_redirect_url="/poll?mine=1",
    ) as server:
        reply = server.ask("GET", "/it")
        _assert_private(reply)
        _assert_final(server.follow("/it", reply))

    location = urlsplit(reply.get("location") or "")
    assert ("", "/poll") == (location.netloc, location.path)
    assert ["mine", "runId", "token"] == list(parse_qs(location.query))


@requirement("H6")
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_function_says_where_to_wait(deployment: Deployment, kind: str) -> None:
    """It is called with the run's id and token, and its answer is the whole URL."""

    def where(run_id: str, token: str) -> str:
        return f"/poll?token={token}&runId={run_id}&by=me"

    async def where_async(run_id: str, token: str) -> str:
        return where(run_id, token)

    with deployment.serving(
        _program("sleep", CallLog()),
        more=lambda durable: {"GET /poll": durable.endpoint_proxy()},
        async_redirect_url=where if kind == "def" else where_async,
    ) as server:
        reply = server.ask("GET", "/it")
        _assert_final(server.follow("/it", reply))

    assert (reply.get("location") or "").endswith("&by=me")


@requirement("H7")
def test_options_of_the_adapter(durable_subject: ServerSubject) -> None:
    """They merge, can be chained, and leave the adapter alone that they were asked of."""
    first = durable_subject.endpoint_adapter.with_options(retries=1, async_response="token")
    second = first.with_options(retries=2)

    assert {"retries": 1, "async_response": "token"} == first.options
    assert {"retries": 2, "async_response": "token"} == second.options
    assert "retries" not in durable_subject.endpoint_adapter.options
    with pytest.raises(ValueError, match="retries"):
        first.with_options(retries=21)


@requirement("H7")
def test_options_of_the_endpoint_go_first(deployment: Deployment) -> None:
    """What the endpoint says for itself counts, and the adapter's for all else."""
    own = {"async_response": "redirect"}
    options: dict[str, Any] = {"async_response": "token", "async_redirect_url": "/poll"}
    with deployment.serving(_program("long sleep", CallLog()), own=own, **options) as server:
        reply = server.ask("GET", "/it")

    assert (302, "/poll") == (reply.status, (reply.get("location") or "").partition("?")[0])


@requirement("H8")
def test_the_run_of_a_client_that_left(deployment: Deployment) -> None:
    """It goes on to its end, and each step is executed once."""
    call_log, gate = CallLog(), deployment.gate()

    def program(request: Any, step: Any) -> Script:
        yield step.run("gate", lambda: call_log.record("gate", gate.wait_open(0)))
        yield step.sleep("nap", 0.1)
        yield step.run("after", call_log.record, "after", 0)

    with deployment.serving(program) as server:
        with server.connect() as connection:
            connection.send(head_of("GET", "/it", server.host))
            gate.wait_reached()
        gate.open()
        until(lambda: call_log.count("after"), "the run went on")
        server.settle()

    assert {"gate": 1, "after": 1} == call_log.counts()


@requirement("H9")
@needs(Capability.CLIENT_DISCONNECT)
def test_a_client_that_leaves_in_a_step(deployment: Deployment) -> None:
    """The run is handed off while the step still runs."""
    gate = deployment.gate()

    def program(request: Any, step: Any) -> Script:
        yield step.run("before", lambda: None)
        yield step.run("gate", gate.wait_open, 0)

    with deployment.serving(program) as server:

        def phases() -> list[Phase]:
            return [each.run.phase for each in server.durable.engine.list(RunFilter(), 10)]

        with server.connect() as connection:
            connection.send(head_of("GET", "/it", server.host))
            gate.wait_reached()
            assert [Phase.SYNC] == phases()
        until(lambda: phases() == [Phase.ASYNC], "the run was handed off")
        gate.open()
        until(lambda: server.phases() == ["completed"], "the run completed")
