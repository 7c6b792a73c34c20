"""The answers to callbacks: what is POSTed to the URLs of ``run.callback_url``."""

from __future__ import annotations

from dataclasses import dataclass

from durable_core.api.effects import CallEngine, RequestEffect, RequestFlow
from durable_core.api.engine import Engine
from durable_core.codec.records import callback_digest, dump_callback, without_params
from durable_core.codec.tokens import verify_callback
from durable_core.engine.embedded import embedded
from durable_core.errors import InvalidTokenError, StoreError
from durable_core.flow.error_responses import store_unavailable_response
from durable_core.flow.wait import refuse_token
from durable_core.flow.wait_url import PRIVATE_HEADERS, WaitParams
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response, with_headers
from durable_core.machine.addresses import callback_address
from durable_core.model.event import Event
from durable_core.platform import logger, make_ulid
from durable_core.ports import Deliver, Delivered, Delivery, RunRecord

__all__ = ["answer_callback"]

#: A run is stored at most so long after it has begun, milliseconds. One that is older and not
#: stored has been deleted.
_UNSTORED = 3_600_000


@dataclass(frozen=True)
class _Deliver(RequestEffect):
    """Deliver the answer to a wait; answered with what has become of it."""

    delivery: Delivery

    def perform(self, engine: Engine) -> Delivered:
        return embedded(engine).execute(self._write(engine))

    async def perform_async(self, engine: Engine) -> Delivered:
        return await embedded(engine).execute_async(self._write(engine))

    def _write(self, engine: Engine) -> Deliver:
        env = engine.env
        return Deliver(app=env.app, delivery=self.delivery, now=env.clock.now())


def answer_callback(
    engine: Engine,
    request: Request,
    params: WaitParams,
    stored_headers: frozenset[str] = frozenset(),
) -> RequestFlow[Response]:
    """Deliver a request to the wait that its token answers.

    Args:
        engine: of the application.
        request: a POST to the URL of ``run.callback_url``.
        params: the names of its parameters.
        stored_headers: lower-case names of credential headers to keep.
    """
    env, query = engine.env, request.query
    run_id, token = query.get(params.run) or "", query.get(params.token) or ""
    try:
        secrets = env.secrets() if engine.store is not None else ()
        op_id = verify_callback(secrets, token, app=env.app, run_id=run_id)
    except InvalidTokenError as error:
        return refuse_token(str(error))
    most = env.limits.event
    if len(request.body) > most:
        return _refuse(413, "content-too-large", f"at most {most} bytes are accepted")
    shown = without_params(request, frozenset({params.run, params.token}))
    event = Event(
        "callback",
        dump_callback(shown, stored_headers),
        id=callback_digest(request),
        ts=env.clock.now(),
    )
    delivery = Delivery(address=callback_address(run_id, op_id), event=event, run_id=run_id)
    try:
        delivered: Delivered = yield _Deliver(delivery)
        if delivered.run_id is not None:
            return Response.json({"status": "accepted"}, headers=PRIVATE_HEADERS)
        if delivered.is_used:
            return _refuse(409, "callback-used", "this has been answered before")
        record: RunRecord | None = yield CallEngine(lambda engine: engine.get(run_id))
    except StoreError as error:
        logger.error("an answer was refused, the store is unavailable: %s", error)
        return store_unavailable_response(error)
    return _refuse_run(run_id, record, env.clock.now())


def _refuse_run(run_id: str, record: RunRecord | None, now: int) -> Response:
    """Return the answer where the run has ended, or is not stored yet."""
    is_young = run_id >= make_ulid(max(0, now - _UNSTORED), bytes(10))
    may_come = is_young if record is None else not record.run.phase.ended
    if may_come:
        early = _refuse(503, "callback-too-early", "the run is not stored yet, answer again")
        return with_headers(early, (("retry-after", "1"),))
    return _refuse(410, "callback-gone", "the run has ended, nobody waits for an answer")


def _refuse(status: int, kind: str, detail: str) -> Response:
    return with_headers(problem(status, kind, detail=detail), PRIVATE_HEADERS)
