"""A call of another server, by an HTTP client object, in a thread or in a task.

The Protocols name what ``httpx2``, ``httpx`` and the clients of ``durable_client`` have in common.
The core has no client of its own: where none is given, ``durable_client`` has to be installed.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from durable_core.api.function_steps import with_undo
from durable_core.codec.json import JSONCodec
from durable_core.duration import is_int
from durable_core.errors import (
    LimitExceededError,
    ServerBusyError,
    ServerStatusError,
    StepUsageError,
)
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import Flow
from durable_core.flow.scope import CURRENT_RUN, HandlerKind, RunScope
from durable_core.flow.step_options import StepOptions
from durable_core.http.client_kind import is_client_of_kind
from durable_core.http.headers import TOKEN, HeaderFields, Headers
from durable_core.http.response import FetchedResponse
from durable_core.model.run import Run
from durable_core.model.step import Op, OpKind
from durable_core.runners.observers import Observers
from durable_core.runners.time_limit import when_abandoned

__all__ = [
    "AsyncClient",
    "Client",
    "OutgoingCall",
    "check_client",
    "drive_call",
    "make_call",
    "parse_retry_after",
    "with_idempotency_key",
    "with_trace_headers",
]

T = TypeVar("T")

_CONNECT_TIMEOUT = 10.0
#: Seconds by which the client waits longer than the step: else chance decides which of the two
#: notices the end of the time, and so which error the attempt has.
_CLIENT_MARGIN = 1.0
#: Methods whose requests get an ``Idempotency-Key``.
_KEYED = frozenset({"POST", "PATCH"})
#: The longest pause that a server may ask for, seconds.
_LONGEST_PAUSE = 3600.0


class Client(Protocol):
    """A ``Client`` of ``httpx2`` or ``httpx``, or another object with these two methods."""

    def build_request(
        self, method: str, url: str, *, content: Any = ..., headers: Any = ..., timeout: Any = ...
    ) -> Any: ...

    def send(self, request: Any, *, stream: bool = ..., follow_redirects: bool = ...) -> Any: ...


class AsyncClient(Protocol):
    """An ``AsyncClient`` of ``httpx2`` or ``httpx``, or another object with these two methods."""

    def build_request(
        self, method: str, url: str, *, content: Any = ..., headers: Any = ..., timeout: Any = ...
    ) -> Any: ...

    async def send(
        self, request: Any, *, stream: bool = ..., follow_redirects: bool = ...
    ) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingCall:
    """What is asked of a server, and what of its answer is taken.

    Attributes:
        method, url, headers, body: of the request.
        timeout: seconds that the attempt may take.
        max_bytes: of the body of the answer.
        secrets: returns further header fields, when a request is made.
    """

    method: str
    url: str
    headers: Headers
    body: bytes | None
    timeout: float
    max_bytes: int
    secrets: Callable[[], Sequence[tuple[str, str]]] | None = None

    def with_secrets(self, secrets: Callable[[], Sequence[tuple[str, str]]]) -> OutgoingCall:
        """Return the call with secret header fields, which are read for each request."""
        return replace(self, secrets=secrets)

    def perform(self, client: Client | None) -> FetchedResponse:
        """Make the call in this thread.

        Raises:
            ServerStatusError: the server answered 429 or 5xx.
            LimitExceededError: the answer is too large.
            TimeoutError: its body was not whole in time.
            Exception: what the client raises where the connection failed.
        """
        deadline = time.monotonic() + self.timeout
        with _client_or_ours(client) as chosen, _OpenConnection() as connection:
            # Nothing stops this thread when the time of its step is over, and the next byte of the
            # head may come in time for ever.
            when_abandoned(connection.break_off)
            request = self._build(chosen)
            connection.watch(request)
            answer = chosen.send(request, stream=True, follow_redirects=False)
            try:
                self._check_status(answer)
                parts, size = [], 0
                for part in answer.iter_bytes():
                    size += len(part)
                    self._check_size(size)
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"the answer took longer than {self.timeout:g} s")
                    parts.append(part)
            finally:
                answer.close()
        return self._response(answer, parts)

    async def perform_async(self, client: AsyncClient | None) -> FetchedResponse:
        """Make the call in this task; see :meth:`perform`."""
        async with _async_client_or_ours(client) as chosen:
            answer = await chosen.send(self._build(chosen), stream=True, follow_redirects=False)
            try:
                self._check_status(answer)
                parts, size = [], 0
                async for part in answer.aiter_bytes():
                    size += len(part)
                    self._check_size(size)
                    parts.append(part)
            finally:
                await answer.aclose()
        return self._response(answer, parts)

    def _build(self, client: Client | AsyncClient) -> Any:
        headers = self.headers
        if self.secrets is not None:
            headers = Headers([*headers.raw, *self.secrets()])
        headers = with_trace_headers(headers)
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.raw]
        limit = self.timeout + _CLIENT_MARGIN
        connect = min(_CONNECT_TIMEOUT, limit)
        return client.build_request(
            self.method,
            self.url,
            content=self.body,
            headers=fields,
            timeout=(connect, limit, limit, limit),
        )

    def _check_status(self, answer: Any) -> None:
        status = int(answer.status_code)
        if status != 429 and status < 500:
            return
        text = f"{urlsplit(self.url).netloc} answered {status}"
        pause = parse_retry_after(answer.headers.get("retry-after"))
        if pause is None:
            raise ServerStatusError(text, status)
        raise ServerBusyError(text, status, min(pause, _LONGEST_PAUSE))

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise LimitExceededError(
                f"the answer of {urlsplit(self.url).netloc} has more than {self.max_bytes} bytes "
                "(max_bytes=)"
            )

    def _response(self, answer: Any, parts: list[bytes]) -> FetchedResponse:
        fields = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers.raw
        ]
        return FetchedResponse(int(answer.status_code), Headers(fields), b"".join(parts))


class _OpenConnection:
    """The connection of a call, which another thread may break off. A context.

    ``httpx`` and ``httpx2`` tell of a new connection by the extension ``trace`` of a request. The
    socket is duplicated: the original is not there while TLS is agreed upon. Nothing tells of a
    connection that the client had kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_broken = False

    def __enter__(self) -> _OpenConnection:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def watch(self, request: object) -> None:
        """Learn of the connection that is made for a request."""
        extensions = getattr(request, "extensions", None)
        if isinstance(extensions, dict):
            extensions.setdefault("trace", self._trace)

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if not event.endswith(("connect_tcp.complete", "connect_unix_socket.complete")):
            return
        made = info["return_value"].get_extra_info("socket")
        if made is None:
            return  # not one of the operating system
        with self._lock:
            self._socket = socket.fromfd(made.fileno(), made.family, made.type)
            if self._is_broken:
                self._shut()

    def break_off(self) -> None:
        """Have all that is read and written on the connection fail, now and later."""
        with self._lock:
            self._is_broken = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # the server was faster
                self._socket.shutdown(socket.SHUT_RDWR)


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds of a ``Retry-After``; None if there is none, or it makes no sense."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    from email.utils import parsedate_to_datetime  # most have seconds, or none

    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _client_or_ours(client: Client | None) -> AbstractContextManager[Client]:
    if client is not None:
        return nullcontext(client)
    made: AbstractContextManager[Client] = _load_client().TransportClient()
    return made


def _async_client_or_ours(client: AsyncClient | None) -> AbstractAsyncContextManager[AsyncClient]:
    if client is not None:
        return nullcontext(client)
    made: AbstractAsyncContextManager[AsyncClient] = _load_client().AsyncTransportClient()
    return made


def _load_client() -> Any:
    try:
        import durable_client
    except ModuleNotFoundError as error:
        if error.name not in ("durable_client", "httpx2"):
            raise
        raise StepUsageError(
            "step.fetch and step.ai.infer need an HTTP client: install the package "
            "'durable-client', or give client=, such as an httpx.Client"
        ) from error
    return durable_client


def make_call(
    *,
    method: object,
    url: object,
    headers: HeaderFields,
    body: object,
    json: object,
    timeout: float,
    max_bytes: object,
) -> OutgoingCall:
    """Return a call whose arguments are sound. ``timeout`` is in seconds.

    Raises:
        TypeError, ValueError: one is not. No message shows the URL, a header's value or the body.
    """
    if not isinstance(method, str) or TOKEN.fullmatch(method) is None:
        raise ValueError(f"method must be an RFC 9110 token such as 'POST', not {method!r:.60}")
    if not is_int(max_bytes) or max_bytes < 1:
        raise ValueError(f"max_bytes must be an int of 1 or more, not {max_bytes!r:.60}")
    fields = headers if isinstance(headers, Headers) else Headers(headers)
    content = _content(body, json)
    if json is not None and "content-type" not in fields:
        fields = Headers([*fields.raw, ("content-type", "application/json")])
    return OutgoingCall(
        method=method,
        url=_check_url(url),
        headers=fields,
        body=content,
        timeout=timeout,
        max_bytes=max_bytes,
    )


def _content(body: object, json: object) -> bytes | None:
    if json is not None:
        if body is not None:
            raise ValueError("give either body= or json=, not both")
        return JSONCodec().encode(json).encode("utf-8")
    if isinstance(body, str):
        return body.encode("utf-8")
    if body is None or isinstance(body, bytes):
        return body
    raise TypeError(
        f"body must be bytes or str, not {type(body).__name__}: what is streamed cannot be sent "
        "again by another attempt"
    )


def drive_call(
    scope: RunScope,
    step_id: str,
    outgoing: OutgoingCall,
    client: Any,
    options: StepOptions,
    convert: Callable[[FetchedResponse], object],
    load: Callable[[Any], T],
) -> Any:
    """Make a call in a step; return what ``load`` makes of its stored result, or a coroutine.

    Args:
        scope: the run.
        step_id: the step.
        outgoing: what to ask. A POST or PATCH gets an ``Idempotency-Key``.
        client: the client object, or None.
        options: of the step.
        convert: makes the result of the step of the response; it may raise, too.
        load: makes what the handler gets of that.
    """
    is_async = scope.kind is HandlerKind.ASYNC_DEF
    if client is None:
        _load_client()
    op = scope.ex.next_op(step_id, OpKind.RUN, scope.current_task())
    outgoing = with_idempotency_key(outgoing, scope.ex.run, op)

    def ask() -> object:
        return convert(outgoing.perform(client))

    async def ask_async() -> object:
        return convert(await outgoing.perform_async(client))

    # Without arguments: those of a step may be recorded, and headers are secret.
    call = Call(ask_async if is_async else ask, options=options)
    flow: Flow[Any] = _loaded(scope.flows.run_step(scope.ex, op, call), load)
    if options.undo is not None:
        flow = with_undo(scope, op, options.undo, flow)
    return scope.drive(flow)


def with_idempotency_key(outgoing: OutgoingCall, run: Run, op: Op) -> OutgoingCall:
    """Return a call whose requests have the same ``Idempotency-Key``, if its method needs one."""
    if outgoing.method not in _KEYED or "idempotency-key" in outgoing.headers:
        return outgoing
    key = ("idempotency-key", _idempotency_key(run.app, run.id, op.id))
    return replace(outgoing, headers=Headers([*outgoing.headers.raw, key]))


def _loaded(flow: Flow[object], load: Callable[[Any], T]) -> Flow[T]:
    return load((yield from flow))


def check_client(client: object, *, is_async: bool) -> None:
    """Check a client object.

    Raises:
        TypeError: it has not the methods of a client, or not those for this kind of handler.
    """
    if client is None:
        return
    build, send = getattr(client, "build_request", None), getattr(client, "send", None)
    if not callable(build) or not callable(send):
        raise TypeError(
            f"client must have build_request and send, as an httpx client has; "
            f"{type(client).__name__} has not"
        )
    if not is_client_of_kind(client, is_async=is_async):
        needed = "an asynchronous client, such as httpx.AsyncClient, in 'async def' handlers"
        if not is_async:
            needed = "a plain client, such as httpx.Client, in 'def' handlers"
        raise TypeError(f"client must be {needed}, not {type(client).__name__}")


def _check_url(url: object) -> str:
    """Return a URL that can be asked.

    Raises:
        TypeError, ValueError: it is none. The message does not show it: it may have a key.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or any(ord(char) <= 32 for char in url):
        raise ValueError("url must be absolute, such as 'https://api.example.com/orders?id=7'")
    if "@" in parts.netloc:
        raise ValueError("url must not have a user and a password: send them in headers=")
    return url


def _idempotency_key(app: str, run_id: str, op_id: str) -> str:
    """Return the value of ``Idempotency-Key`` for the requests of a step, the same in all."""
    digest = hashlib.sha256(f"{app}:{run_id}:{op_id}".encode()).hexdigest()
    return f'"{digest[:32]}"'


def with_trace_headers(headers: Headers) -> Headers:
    """Return header fields with those that carry the current trace context, but for what is there.

    Called in the function of a step. Without observers the fields stay as they are.
    """
    missing = [field for field in _trace_headers() if field[0] not in headers]
    return Headers([*headers.raw, *missing]) if missing else headers


def _trace_headers() -> Sequence[tuple[str, str]]:
    scope = CURRENT_RUN.get()
    if not isinstance(scope, StepAttempt) or scope.owner is None:
        return ()
    observers = scope.owner.env.observers
    return Observers(observers).trace_headers() if observers else ()
