"""The server calls the endpoint again: is it the server, what does it ask for, what is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from durable_core.codec.tokens import is_ulid, ulid_time
from durable_core.errors import StoreError
from durable_core.flow.effects import Flow, send_response
from durable_core.flow.env import AppConfig, ResolvedOptions
from durable_core.flow.execution import run_label
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase, Run
from durable_inngest._api import SDK
from durable_inngest._client import ServerClient, Unknown
from durable_inngest._config import Config, sign, verify
from durable_inngest._envelope import load_request
from durable_inngest._execution import Found, Reentry, RemoteExecution, Results

__all__ = [
    "Door",
    "answer_ops",
    "answer_with",
    "internal_error",
    "is_reentry",
    "load_execution",
    "server_answer",
]


# --- answers --------------------------------------------------------------------------------------
#
# What the server gets for a re-entry.

_OWN = (
    ("content-type", "application/json"),
    ("x-inngest-sdk", SDK),
    ("x-inngest-framework", "durable"),
    ("x-inngest-req-version", "2"),
    ("x-inngest-sdk-handled", "true"),
    ("user-agent", SDK),
)


def server_answer(
    status: int, body: str | bytes, headers: Sequence[tuple[str, str]] = ()
) -> Response:
    """Return an answer with all the headers that the server needs."""
    content = body.encode("utf-8") if isinstance(body, str) else body
    return Response(status=status, headers=(*_OWN, *headers), body=content)


def answer_ops(ex: RemoteExecution, ops: Sequence[str], failed: Found | None = None) -> Flow[None]:
    """Answer with ops; a failed step says when it may be tried again."""
    headers: list[tuple[str, str]] = []
    if failed is not None:
        headers.append(("x-inngest-no-retry", "true" if failed.final else "false"))
        if not failed.final:
            headers.append(("retry-after", str(max(1, -(-failed.delay // 1000)))))
    yield from answer_with(ex, server_answer(206, f"[{','.join(ops)}]", headers))


def answer_with(ex: RemoteExecution, response: Response) -> Flow[None]:
    """Give the answer; nothing that the handler does from now on counts."""
    ex.answered = True
    yield from send_response(response)


def internal_error(error: BaseException) -> Response:
    """Return the answer when a call cannot be served; the server tries again."""
    fields = {"type": "internal", "name": type(error).__name__, "message": str(error)}
    return server_answer(500, json.dumps(fields), (("x-inngest-no-retry", "false"),))


# --- reentry --------------------------------------------------------------------------------------

_RUN_ID = "x-run-id"
_SIGNATURE = "x-inngest-signature"


def is_reentry(request: Request) -> bool:
    """Tell whether a request names a run and has a signature, be it an empty one."""
    headers = request.headers
    return bool(headers.get(_RUN_ID)) and headers.get(_SIGNATURE) is not None


class Door:
    """Lets the server in, and signs what it is told.

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
) -> RemoteExecution | Response:
    """Return the execution that the server asks for, or the answer where there can be none.

    ``any_path``: the server knows our URL by another path than we see.
    """
    run_id = request.headers.get(_RUN_ID) or ""
    if not is_ulid(run_id):
        return _refusal("the run id is malformed")
    try:
        batch, actions = await client.state(run_id)
        original = load_request(batch, request, any_path=any_path)
    except (Unknown, StoreError, ValueError, RecursionError) as error:
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
        created_at=ulid_time(run_id),
    )
    reentry = replace(_asked(request), actions=actions)
    return RemoteExecution(env, options, run, original, reentry=reentry, results=results)


def _asked(request: Request) -> Reentry:
    headers = request.headers
    target = (headers.get("x-inngest-step-id") or "").lower()
    generation = headers.get("x-inngest-generation-id") or ""
    is_number = generation.isascii() and generation.isdigit() and len(generation) < 6
    return Reentry(
        actions={},
        target="" if target == "step" else target,
        force_plan=(headers.get("x-inngest-force-step-plan") or "").lower() in ("true", "1"),
        generation=int(generation) if is_number else 1,
    )


def _refusal(why: str) -> Response:
    """Return the answer to a call that no attempt can make right."""
    body = f'{{"name":"CallRefused","message":"{why}"}}'
    return server_answer(400, body, (("x-inngest-no-retry", "true"),))
