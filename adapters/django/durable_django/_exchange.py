"""Requests of Django, answered by an endpoint of the core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Any, NoReturn
from wsgiref.types import WSGIEnvironment

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import (
    HttpRequest,
    HttpResponse,
    RawPostDataException,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase

from durable_core import Request
from durable_core.adapters import (
    AdapterApp,
    AsyncExchange,
    Fields,
    NativeEndpoint,
    PulledBody,
    ThreadIterator,
    converse_async,
    parse_request,
    pull,
    pull_response,
)
from durable_core.errors import ConfigurationError
from durable_django._views import View, call, core_response
from durable_wsgi import WSGIExchange, length_of_plain

__all__ = ["REQUEST_TASK", "ViewApp", "answer", "answer_async"]

#: In the ``META`` of a request that has passed the middleware: a function that returns the task in
#: which it did that; None in a thread.
REQUEST_TASK = "durable_django.task"
_WITHOUT_CONTENT = (204, 304)


class ViewApp(AdapterApp):
    """Answers by the endpoint of a view.

    Args:
        endpoint: the endpoint.
    """

    def __init__(self, endpoint: NativeEndpoint) -> None:
        super().__init__(endpoint)
        self._native = endpoint

    def serve(self, view: View, route: str | None) -> HttpResponseBase | None:
        """Call a ``def`` view that has a run only if it needs one.

        Args:
            view: the call, in the thread of a WSGI server.
            route: the template that the path was found by.

        Returns:
            The response; None if there must be a run at once.
        """
        body = self._plain_body(view.request)
        if body is None:
            return None

        def request() -> tuple[Request, str | None]:
            exchange = WSGIExchange(_environ_of(view.request), _no_response)
            return parse_request(exchange, self.limits, body), route

        deferred = self._native.defer_in_thread(request)
        if deferred is None:
            return None
        response, of_run = deferred.serve(lambda: call(view), core_response)
        if of_run is None:
            return response
        head = _Head()
        exchange = WSGIExchange(_environ_of(view.request), head.start)
        return _response_of(pull_response(self, exchange, of_run), head, view.request)

    def _plain_body(self, request: HttpRequest) -> bytes | None:
        """Return the body that the middleware has kept, if the request is for a new run only."""
        if hasattr(request, "scope"):
            return None
        length = length_of_plain(request.META, self.limits)
        kept: bytes = getattr(request, "_body", b"")
        return kept if length == len(kept) else None


def answer(
    app: AdapterApp,
    request: HttpRequest,
    route: str | None = None,
    path_params: Mapping[str, str] | None = None,
) -> HttpResponseBase:
    """Return the response to a request, in the thread of Django's sync code.

    Args:
        app: answers by an endpoint.
        request: Django's.
        route: the template that the path was found by.
        path_params: what Django has found in the path.

    Raises:
        SuspiciousOperation: the body is longer than ``DATA_UPLOAD_MAX_MEMORY_SIZE``.
    """
    head = _Head()
    exchange = WSGIExchange(_environ_of(request), head.start)
    exchange.route = route
    exchange.path_params = path_params or {}
    return _response_of(pull(app, exchange), head, request)


def _response_of(body: PulledBody, head: _Head, request: HttpRequest) -> HttpResponseBase:
    if head.is_whole:
        try:
            return _filled(_Whole(b"".join(body), status=head.status), head.fields)
        finally:
            body.close()
    if not hasattr(request, "scope"):
        return _filled(StreamingHttpResponse(body, status=head.status), head.fields)
    # On an event loop Django would read a plain iterator to its end before it sends anything.
    return _streamed(ThreadIterator(body), request, head.status, head.fields)


async def answer_async(
    app: AdapterApp, request: HttpRequest, route: str | None = None
) -> HttpResponseBase:
    """Return the response to a request, in a task. Cancelling it means that the client is gone.

    The arguments, and what is raised: as for :func:`answer`.
    """
    if not hasattr(request, "scope"):
        # Under WSGI this loop ends with the request. The engine must not take it for the server's:
        # other runs would be replayed on it.
        return await sync_to_async(answer, thread_sensitive=False)(app, request, route)
    exchange = _TaskExchange(_environ_of(request), route)
    conversation = asyncio.create_task(converse_async(app, exchange))
    conversation.add_done_callback(exchange.conversation_ended)
    try:
        status, fields = await exchange.head
    except BaseException:
        await _cancel(conversation)
        raise
    chunks = _TaskIterator(exchange, conversation)
    if _is_whole(status, fields):
        content = b"".join([data async for data in chunks])
        return _filled(_Whole(content, status=status), fields)
    return _streamed(chunks, request, status, fields)


def _streamed(
    chunks: ThreadIterator | _TaskIterator, request: HttpRequest, status: int, fields: Fields
) -> HttpResponseBase:
    """Return a streamed response for an event loop, whose body is closed when its request ends.

    Django closes a response that it has read, or has begun to send. If the head cannot be sent, it
    closes nothing, and the task of the request fails.
    """
    task: asyncio.Task[Any] | None = request.META[REQUEST_TASK]()
    if task is not None:
        close_if_failed = partial(_close_if_failed, chunks)
        task.get_loop().call_soon_threadsafe(task.add_done_callback, close_if_failed)
    return _filled(StreamingHttpResponse(chunks, status=status), fields)


def _close_if_failed(chunks: ThreadIterator | _TaskIterator, task: asyncio.Task[Any]) -> None:
    if task.cancelled() or task.exception() is not None:
        chunks.close()


class _Whole(HttpResponse):
    """A response whose body is there; Django's test client follows it if it is a redirect."""

    @property
    def url(self) -> str:
        """Where a redirect leads to."""
        return self.headers["location"]


class _Head:
    """The head of a response, as WSGI has it."""

    status = 0
    fields: Fields = ()

    def start(self, status: str, fields: list[tuple[str, str]], *_: object) -> Any:
        self.status, self.fields = int(status.partition(" ")[0]), fields

    @property
    def is_whole(self) -> bool:
        return _is_whole(self.status, self.fields)


def _is_whole(status: int, fields: Fields) -> bool:
    """Tell whether the whole body is there with the head: it is no stream."""
    return status in _WITHOUT_CONTENT or any(name.lower() == "content-length" for name, _ in fields)


class _TaskExchange(AsyncExchange):
    """A request of Django on an event loop.

    Attributes:
        head: status and header fields of the response.
    """

    def __init__(self, environ: WSGIEnvironment, route: str | None) -> None:
        known = WSGIExchange(environ, _no_response)
        self.method, self.target, self.fields = known.method, known.target, known.fields
        self.scheme, self.authority = known.scheme, known.authority
        self.root_path, self.route = known.root_path, route
        self.client = known.client
        self._body = environ["wsgi.input"]
        self._chunks: asyncio.Queue[Any] = asyncio.Queue(1)
        self.head: asyncio.Future[tuple[int, Fields]] = asyncio.get_running_loop().create_future()

    async def read(self, size: int) -> bytes:
        data: bytes = self._body.read(size)
        return data

    async def is_gone(self) -> bool:
        """Wait for ever: Django cancels its own task when the client is gone."""
        return bool(await asyncio.get_running_loop().create_future())

    async def begin(self, status: int, fields: Fields) -> None:
        if not self.head.done():
            self.head.set_result((status, fields))

    async def write(self, data: bytes) -> None:
        await self._chunks.put(data)

    async def end(self) -> None:
        await self._chunks.put(None)

    async def abort(self, error: BaseException) -> None:
        await self._chunks.put(error)

    def conversation_ended(self, conversation: asyncio.Task[None]) -> None:
        """Let nobody wait for a head that will not come."""
        if self.head.done():
            return
        if conversation.cancelled() or (error := conversation.exception()) is None:
            self.head.cancel()
        else:
            self.head.set_exception(error)

    async def next_chunk(self) -> bytes | None:
        """Return the next part of the body; None at its end."""
        data: bytes | BaseException | None = await self._chunks.get()
        if isinstance(data, BaseException):
            raise data
        return data


def _no_response(*_: object) -> NoReturn:
    raise AssertionError("this exchange is answered by another one")


class _TaskIterator(AsyncIterator[bytes]):
    """The body of a response that a conversation makes, which ends when nobody wants more of it.

    It is no generator: to close one that has not begun would end nothing.
    """

    def __init__(self, exchange: _TaskExchange, conversation: asyncio.Task[None]) -> None:
        self._exchange = exchange
        self._conversation = conversation
        self._is_closed = False

    async def __anext__(self) -> bytes:
        if self._is_closed:
            raise StopAsyncIteration
        data: bytes | None = None
        try:
            data = await self._exchange.next_chunk()
            if data is None:
                await self._conversation
        finally:
            if data is None:
                await _cancel(self._conversation)
        if data is None:
            raise StopAsyncIteration
        return data

    def close(self) -> None:
        """Have the conversation ended without waiting for that, from any thread."""
        self._is_closed = True
        loop = self._conversation.get_loop()
        with suppress(RuntimeError):  # the loop is closed, and has cancelled all tasks
            loop.call_soon_threadsafe(self._conversation.cancel)


async def _cancel(conversation: asyncio.Task[None]) -> None:
    conversation.cancel()
    await asyncio.wait((conversation,))


def _environ_of(request: HttpRequest) -> WSGIEnvironment:
    """Return the request as a WSGI server would show it, whichever server it came from."""
    environ = {
        "wsgi.multithread": True,
        **request.META,
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": _Body(request),
    }
    for name in ("SCRIPT_NAME", "PATH_INFO"):  # Django has decoded what PEP 3333 has as octets
        environ[name] = environ[name].encode().decode("latin-1")
    scope = getattr(request, "scope", None)
    if scope is not None:
        environ["REQUEST_URI"] = scope.get("raw_path", b"").decode("latin-1")
        environ["wsgi.input_terminated"] = True  # Django has read all that there was
    return environ


class _Body:
    """The body of a request, which Django keeps when it is first read.

    It is not there any more if other code, such as the check of the CSRF token in a form, has read
    an upload that the middleware had not kept.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._source: BytesIO | None = None

    def read(self, size: int) -> bytes:
        if self._source is None:
            try:
                self._source = BytesIO(self._request.body)
            except RawPostDataException:
                raise _why_not_kept(self._request) from None
        return self._source.read(size)


def _why_not_kept(request: HttpRequest) -> Exception:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    declared = request.META.get("CONTENT_LENGTH") or "0"
    if limit is not None and int(declared) > limit:
        request.close()  # the uploads, which Django forgets when it answers this error
        return RequestDataTooBig("Request body exceeded settings.DATA_UPLOAD_MAX_MEMORY_SIZE.")
    return ConfigurationError(
        f"the body of {request.path} was read before Durable could keep it: name "
        "'durable_django.DurableMiddleware' first in settings.MIDDLEWARE"
    )


def _filled(response: HttpResponseBase, fields: Fields) -> HttpResponseBase:
    """Return a response with these header fields and no others."""
    for name in list(response.headers):
        del response.headers[name]
    for name, value in fields:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        elif name in response.headers:
            response.headers[name] = f"{response.headers[name]}, {value}"
        else:
            response.headers[name] = value
    return response
