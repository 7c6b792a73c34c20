"""Handlers that are called before they have a run, as those of frameworks are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from durable_core.api.adapter import HTTPHandler
from durable_core.api.endpoint import Endpoint
from durable_core.engine.deferred import DeferredRun
from durable_core.http.request import Request
from durable_core.http.response import Response

__all__ = ["call_deferred", "call_deferred_def"]


async def call_deferred(
    endpoint: HTTPHandler, handler: Callable[[Request], Awaitable[Any]], asked: Request
) -> Response:
    """Return the answer of an ``async def`` handler, or of its run.

    The engine of the endpoint must have been started.
    """
    assert isinstance(endpoint, Endpoint)
    deferred = endpoint.defer(lambda: (asked, None))
    assert isinstance(deferred, DeferredRun)
    begun = deferred.call(partial(handler, asked))
    response = None
    if begun.has_ended:
        try:
            response = Response.from_value(begun.result())
        except Exception:
            response = None  # the run says how it fails
    if response is not None and deferred.is_needless(begun):
        return response

    async def rest(asked: Request) -> Any:
        return await begun

    return await deferred.start(rest).wait()


def call_deferred_def(
    endpoint: HTTPHandler, handler: Callable[[Request], Any], asked: Request
) -> Response:
    """As :func:`call_deferred`, for a ``def`` handler; what it returns can be sent."""
    assert isinstance(endpoint, Endpoint)
    deferred = endpoint.defer_in_thread(lambda: (asked, None))
    assert deferred is not None
    value, response = deferred.serve(partial(handler, asked), Response.from_value)
    return Response.from_value(value) if response is None else response
