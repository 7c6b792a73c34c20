"""The middleware through which Django and Durable know each other."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, RawPostDataException
from django.http.response import HttpResponseBase

from durable_core.adapters import RUN_PARAM, TOKEN_PARAM, AdapterApp
from durable_django._adapter import installed_host, replay_of
from durable_django._exchange import REQUEST_TASK, answer, answer_async

__all__ = ["DurableMiddleware"]


class DurableMiddleware:
    """Answers clients that wait for a run, and keeps the bodies of requests for the views.

    Name it as the first one: ``MIDDLEWARE = ["durable_django.DurableMiddleware", ...]``.

    Args:
        get_response: what Django gives to a middleware.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(
        self, request: HttpRequest
    ) -> HttpResponseBase | Coroutine[Any, Any, HttpResponseBase]:
        """Answer a client that waits; otherwise let the others answer."""
        request.META[REQUEST_TASK] = _ref_to_task() if self._is_async else _no_task
        waiting = _waiting_app(request)
        if waiting is not None:
            return answer_async(waiting, request) if self._is_async else answer(waiting, request)
        _prepare(request)
        return cast(HttpResponseBase, self._get_response(request))


def _waiting_app(request: HttpRequest) -> AdapterApp | None:
    """Return what answers a client that waits for a run; None for other requests."""
    query = request.META.get("QUERY_STRING", "")
    if RUN_PARAM not in query or TOKEN_PARAM not in query or request.method == "OPTIONS":
        return None
    host = installed_host()
    return None if host is None else host.waiting


def _ref_to_task() -> Callable[[], asyncio.Task[Any] | None]:
    """Return a reference that does not keep the task, whose result will refer to the request."""
    task = asyncio.current_task()
    return _no_task if task is None else weakref.ref(task)


def _no_task() -> None:
    return None


def _prepare(request: HttpRequest) -> None:
    if replay_of(request) is not None:
        # It was checked when the client sent it, with a cookie that is not stored. This is how
        # Django's own test client says so, too.
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
        return
    if _is_short(request):
        # Before anything else reads it, so that the view can, and its run. Where something above
        # has read it, durable views tell so; others have what they would have without this.
        with suppress(RawPostDataException):
            request.body  # noqa: B018 - Django keeps it


def _is_short(request: HttpRequest) -> bool:
    """Tell whether Django and a run take a body of this length; of others each view hears itself.

    A length that is no number is Django's to refuse.
    """
    declared = request.META.get("CONTENT_LENGTH") or ""
    if not declared.isascii() or not declared.isdecimal():
        return False
    host = installed_host()
    limits = [settings.DATA_UPLOAD_MAX_MEMORY_SIZE]
    if host is not None and host.waiting is not None:
        limits.append(host.waiting.limits.body)
    return all(limit is None or int(declared) <= limit for limit in limits)
