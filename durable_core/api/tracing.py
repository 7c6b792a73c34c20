"""The trace context that requests of steps carry to other servers."""

from __future__ import annotations

from collections.abc import Sequence

from durable_core.flow.attempt import StepAttempt
from durable_core.flow.scope import CURRENT_RUN
from durable_core.http.headers import Headers
from durable_core.runners.observers import Observers

__all__ = ["with_trace_headers"]


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
