"""The server calls the endpoint again: is it the server, what does it ask for, what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from durable_core import Request, Response
from durable_core.engines.remote import (
    AppConfig,
    Phase,
    Reentry,
    ResolvedOptions,
    Results,
    Run,
    is_ulid,
    run_label,
    ulid_time,
)
from durable_core.errors import StoreError
from durable_inngest._client import RunUnknown, ServerClient
from durable_inngest._config import Config, sign, verify
from durable_inngest._envelope import load_request, load_run
from durable_inngest._execution import InngestExecution, internal_error, server_answer

__all__ = [
    "RequestVerifier",
    "is_reentry",
    "load_execution",
]


_RUN_ID = "x-run-id"
_SIGNATURE = "x-inngest-signature"


def is_reentry(request: Request) -> bool:
    """Tell whether a request names a run and has a signature, be it an empty one."""
    headers = request.headers
    return bool(headers.get(_RUN_ID)) and headers.get(_SIGNATURE) is not None


class RequestVerifier:
    """Tells the server from others, and signs what it is answered.

    Args:
        config: the keys, and whether they are needed.
        now: epoch milliseconds.
    """

    def __init__(self, config: Config, now: Callable[[], int]) -> None:
        self._config = config
        self._now = now

    def key_of(self, request: Request) -> str | None:
        """Return the key that has signed the request, "" where none is needed, None for nobody."""
        if self._config.is_dev:
            return ""
        header = request.headers.get(_SIGNATURE) or ""
        return verify(self._config.signing_keys, header, request.body, self._now() / 1000)

    def refusal(self) -> Response:
        """Return the answer to somebody else: it says nothing."""
        headers = (("content-type", "application/json"), ("x-inngest-sdk-handled", "true"))
        return Response(status=401, headers=headers, body=b'{"message":"Unauthorized"}')

    def signed(self, response: Response, key: str) -> Response:
        """Return the answer with a signature, if the server needs one."""
        if not key:
            return response
        assert isinstance(response.body, bytes)
        signature = sign(key, response.body, self._now() // 1000)
        headers = response.headers.with_set(_SIGNATURE, signature)
        return Response(status=response.status, headers=headers, body=response.body)


async def load_execution(
    client: ServerClient,
    env: AppConfig,
    options: ResolvedOptions,
    request: Request,
    results: Results,
    *,
    any_path: bool = False,
) -> InngestExecution | Response:
    """Return the execution that the server asks for, or the answer where there can be none.

    ``any_path``: the server knows our URL by another path than we see.
    """
    run_id = request.headers.get(_RUN_ID) or ""
    if not is_ulid(run_id):
        return _refusal("the run id is malformed")
    try:
        batch, actions = await client.state(run_id)
        original = load_request(batch, request, any_path=any_path)
    except (RunUnknown, StoreError, ValueError, RecursionError) as error:
        # That a run is not known any more is no failure of it: it may have ended meanwhile, and a
        # server that is told of a failure would take that for the end of the run.
        return internal_error(error)
    if original is None:
        return _refusal("the run was not begun by a request to this path")
    run = Run(
        id=run_id,
        app=env.app,
        endpoint_key=options.key,
        function_id=run_label(options, original, None),
        phase=Phase.ASYNC,
        retries=options.retries,
        epoch=2,  # the first execution was for the client
        created_at=ulid_time(run_id),
    )
    run = load_run(batch, run)
    if run.principal is not None:
        original = original.with_principal(run.principal)
    reentry = replace(_asked(request), actions=actions)
    ex = InngestExecution(env, options, run, original, reentry=reentry, results=results)
    ex.run = replace(run, failures=ex.counted(""))
    return ex


def _asked(request: Request) -> Reentry:
    headers = request.headers
    target = (headers.get("x-inngest-step-id") or "").lower()
    generation = headers.get("x-inngest-generation-id") or ""
    is_number = generation.isascii() and generation.isdigit() and len(generation) < 6
    return Reentry(
        actions={},
        target="" if target == "step" else target,
        generation=int(generation) if is_number else 1,
    )


def _refusal(why: str) -> Response:
    """Return the answer to a call that no attempt can make right."""
    body = f'{{"name":"CallRefused","message":"{why}"}}'
    return server_answer(400, body, (("x-inngest-no-retry", "true"),))
