"""Log records that say which run, step, attempt and trace they come from."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from durable_core.api.run import current_run
from durable_core.http.headers import trace_id_of

if TYPE_CHECKING:
    import logging

__all__ = ["LogContext"]


class LogContext:
    """Adds ``run_id``, ``step``, ``attempt`` and ``trace_id`` to log records, in runs.

    It is a filter for ``logging``, to be added to a handler (``handler.addFilter(LogContext())``),
    and a processor for ``structlog``. ``step`` is the id of the step whose function logs, and
    ``attempt`` the number of its attempt; outside steps that of the handler's. ``trace_id`` is that
    of the trace which the run belongs to, 32 hexadecimal digits.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to a record of ``logging``; None where there is nothing to say."""
        for name, value in _fields().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True

    def __call__(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Add the keys to an event of ``structlog``, where there is something to say."""
        for name, value in _fields().items():
            if value is not None:
                event.setdefault(name, value)
        return event


def _fields() -> dict[str, str | int | None]:
    known = current_run()
    if known is None:
        return dict.fromkeys(("run_id", "step", "attempt", "trace_id"))
    attempt = known.attempt if known.step_attempt is None else known.step_attempt
    return {
        "run_id": known.id,
        "step": known.step,
        "attempt": attempt,
        "trace_id": trace_id_of(known.traceparent),
    }
