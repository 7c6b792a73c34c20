"""The calls of views, and what comes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock, get_ident
from typing import Any

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.handlers.exception import response_for_exception
from django.db import connections
from django.http import Http404, HttpRequest
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase

from durable_core import Response
from durable_core.adapters import is_async
from durable_core.errors import NonRetriableError

__all__ = [
    "CALL",
    "View",
    "call",
    "core_response",
    "exception_to_response",
    "respond",
    "respond_async",
]

#: The errors of clients that Django has a response for.
_CLIENT_ERRORS = (
    Http404,
    PermissionDenied,
    BadRequest,
    SuspiciousOperation,
    MultiPartParserError,
)


class View:
    """A call of a view by Django, or by Django REST framework.

    Args:
        function: the user's.
        args, kwargs: what it is called with: the request, or an object with a method and the
            request, and what was found in the path.

    Attributes:
        function: the user's.
        request: Django's, or that of Django REST framework, which has all that Django's has.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.function = function
        self._args = args
        self._kwargs = kwargs
        self._lock = Lock()
        self._is_taken = False
        self._thread = get_ident()
        self.request: HttpRequest = _request_among(function, args)

    def __call__(self) -> Any:
        """Call it."""
        return self.function(*self._args, **self._kwargs)

    def take(self) -> bool:
        """Tell whether a run may make this call: once, and in the thread of Django's request.

        In another thread, as where a client waits for a limited time, Django ends the request, with
        its connections, before or while a ``def`` view runs. A coroutine is called on a loop.
        """
        if get_ident() != self._thread and not is_async(self.function):
            return False
        with self._lock:
            was_taken, self._is_taken = self._is_taken, True
        return not was_taken

    @property
    def route(self) -> str | None:
        """The template that the path was found by, as Django writes it; None if unknown."""
        match = self.request.resolver_match
        return None if match is None else match.route

    def response_for(self, error: Exception) -> HttpResponseBase:
        """Return the response for an error.

        Raises:
            Exception: the error, if it is none of the client's.
        """
        if self._api_view is not None:
            answered: HttpResponseBase = self._api_view.handle_exception(error)
            return answered
        if not isinstance(error, _CLIENT_ERRORS):
            raise error
        return response_for_exception(self.request, error)

    def finish(self, response: object) -> HttpResponseBase:
        """Return what a view has returned as a response that is complete.

        Raises:
            NonRetriableError: it is no response, which another call does not mend.
        """
        if self._api_view is not None:
            parts = self.request.parser_context  # type: ignore[attr-defined]
            response = self._api_view.finalize_response(
                self.request, response, *parts["args"], **parts["kwargs"]
            )
        if not isinstance(response, HttpResponseBase):
            name = self.function.__qualname__
            raise NonRetriableError(
                f"{name} must return an HttpResponse, not {type(response).__name__}"
            )
        render = getattr(response, "render", None)
        if callable(render):
            response = render()
            assert isinstance(response, HttpResponseBase)
        return response

    @property
    def _api_view(self) -> Any:
        """The ``APIView`` of Django REST framework that makes this call; None outside of it."""
        context = getattr(self.request, "parser_context", None)
        return None if context is None else context["view"]


#: The call that the run to be made is for.
CALL: ContextVar[View | None] = ContextVar("durable_django_call", default=None)
#: The call that is being made, also in the steps of its view.
_CURRENT: ContextVar[View | None] = ContextVar("durable_django_current", default=None)


def call(view: View) -> HttpResponseBase:
    """Call a view, and return the response that Django makes of what it returns or raises.

    Raises:
        Exception: what the view raised, if it is no error of a client.
    """
    _CURRENT.set(view)
    try:
        value = view()
    except Exception as error:
        value = view.response_for(error)
    return view.finish(value)


def respond(view: View) -> Response:
    """Return the response of :func:`call` as the core has it."""
    return core_response(call(view))


async def respond_async(view: View) -> Response:
    """Do in a task what :func:`respond` does in a thread; Django's own part is in a thread."""
    _CURRENT.set(view)
    with _thread_of_its_own():
        try:
            value = await view()
        except Exception as error:
            value = await sync_to_async(view.response_for)(error)
        return core_response(await sync_to_async(view.finish)(value))


@contextmanager
def _thread_of_its_own() -> Iterator[None]:
    """Let ``sync_to_async`` have a thread of this view, where it has none that is the run's.

    So Django's asynchronous ORM has one, too. Below code that is not asynchronous, such as a
    middleware, it would be the thread of the request, which may end before the run: the client may
    leave. Under WSGI, it would be one thread for all requests.
    """
    is_below_sync = getattr(AsyncToSync.executors, "current", None) is not None
    if not is_below_sync and SyncToAsync.thread_sensitive_context.get(None) is not None:
        yield
        return
    own = ThreadSensitiveContext()
    AsyncToSync.executors.current = None
    SyncToAsync.thread_sensitive_context.set(own)
    try:
        yield
    finally:
        executor = SyncToAsync.context_to_thread_executor.pop(own, None)
        if executor is not None:
            executor.submit(connections.close_all)
            executor.shutdown(wait=False)


def exception_to_response(error: Exception) -> Response | None:
    """Return the response for an error that a step has raised; None if it is none of a client's.

    So such a step is not tried again.
    """
    view = _CURRENT.get()
    if view is None:
        return None
    try:
        response = view.response_for(error)
    except Exception as raised:
        if raised is error:
            return None
        raise
    return core_response(view.finish(response))


def _request_among(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    for each in args[:2]:
        if hasattr(each, "META"):
            return each
    raise TypeError(f"{function.__qualname__} was called without a request as its first argument")


def core_response(response: HttpResponseBase) -> Response:
    """Return a response of Django's as the core has it."""
    fields = list(response.items())
    fields += [("set-cookie", morsel.OutputString()) for morsel in response.cookies.values()]
    body: Any
    if not response.streaming:
        body = response.content  # type: ignore[attr-defined]
    elif response.is_async:  # type: ignore[attr-defined]
        body = _AsyncBody(response)
    else:
        body = _Body(response)
    return Response(status=response.status_code, headers=fields, body=body)


class _Body:
    """A streamed body of Django's, closed when it is not read any more."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._chunks = iter(response.streaming_content)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return bytes(next(self._chunks))

    def close(self) -> None:
        self._response.close()


class _AsyncBody:
    """The same on an event loop."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._chunks = aiter(response.streaming_content)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return bytes(await anext(self._chunks))

    async def aclose(self) -> None:
        await sync_to_async(self._response.close)()
