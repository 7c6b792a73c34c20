"""From the first response to the last one, as a client goes that is sent to wait."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from durable_core.api.application import Application
from durable_core.api.endpoint import is_wait
from durable_core.flow.handoff import fresh_token
from durable_core.flow.wait import WaitRequest
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.model.run import Phase
from durable_core.testing.bench import Bench, Steering
from durable_core.testing.reply import Reply
from durable_core.testing.steered import Exchange

__all__ = ["concluded"]


def concluded(bench: Bench, exchange: Exchange, response: Response, body: bytes) -> Steering[Reply]:
    """Let happen what a request has brought about, and return what its client gets.

    Raises:
        ConnectionResetError: the process died before the run had a checkpoint.
        NotDeterministicError: see ``BaseHarness.replay_everything``.
    """

    def final(reply: Reply) -> Reply:
        return _final(bench, exchange, reply)

    yield from bench.settle()
    if exchange.run_id in bench.node.gone:
        raise ConnectionResetError(
            "the process died before it answered, and before the run had a step to go on from"
        )
    reply = Reply(exchange.request, response, body, exchange.run_id, final)
    if not (exchange.follow and reply.is_handoff):
        return reply
    assert reply.run_id is not None
    yield from bench.finish(reply.run_id)
    return reply.result()


def _final(bench: Bench, exchange: Exchange, reply: Reply) -> Reply:
    """Ask the wait URL for the final response."""
    run_id = reply.run_id
    assert run_id is not None
    if isinstance(bench.store.result(bench.engine.env.app, run_id), Phase):
        raise bench.unfinished(run_id)
    location = reply.headers.get("location") or ""
    request = Request(method="GET", url=urljoin(exchange.request.url, location))
    if location and _leads_to(exchange, request):
        response = exchange.handler.handle(request, hold=0.0)
    else:
        response = bench.engine.wait(_wait_request(bench, run_id))
    assert isinstance(response.body, bytes)
    return Reply(request, response, response.body, run_id, lambda same: same)


def _leads_to(exchange: Exchange, request: Request) -> bool:
    """Tell whether what the client talks to has the wait URL, too."""
    if urlsplit(request.url).netloc != urlsplit(exchange.request.url).netloc:
        return False
    return is_wait(request) or isinstance(exchange.handler, Application)


def _wait_request(bench: Bench, run_id: str) -> WaitRequest:
    """Return what a wait route elsewhere would ask for; and with a token, where no URL says."""
    return WaitRequest(
        run_id=run_id,
        token=fresh_token(bench.engine.env, run_id),
        hop=0,
        hold_ms=0,
        again=lambda token, hop: "",
        names=("runId", "token"),
    )
