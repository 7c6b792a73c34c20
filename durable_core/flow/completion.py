"""What happens after the end of a run: another run tells whoever wants to know.

That run is stored in the transaction that stores the end of the first one. So no crash comes in
between, and it is retried, taken over and shown as any other run. Its handler has one step.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from durable_core.duration import time_of
from durable_core.http.request import Request
from durable_core.model.run import Phase, Run

if TYPE_CHECKING:
    from durable_core.flow.env import AppConfig
    from durable_core.ports import NewRun

__all__ = [
    "COMPLETION_RETRIES",
    "Completed",
    "OnComplete",
    "Receiver",
    "completed_of",
    "completion_key",
    "completion_run",
]

#: How often a delivery is tried again: with the pauses of ``api/webhook.py``, for about a day.
COMPLETION_RETRIES = 12
_SUFFIX = " (on_complete)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A run that has ended, as a function of ``on_complete=`` gets it.

    Attributes:
        id: of the delivery, the same in each attempt: what tells a repetition from a new one.
        run_id: the run.
        endpoint: the identity of its endpoint (``RunInfo.function_id``).
        name: how the run is shown.
        status: how it ended.
        ended: when, in UTC.
        key: the caller's name for it; None without one.
        labels: by which it is found.
    """

    id: str
    run_id: str
    endpoint: str
    name: str
    status: Literal["completed", "failed", "cancelled"]
    ended: datetime
    key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Receiver(Protocol):
    """What tells somebody of a completed run by a request; see ``Webhook``."""

    def send(self, completed: Completed) -> int: ...


#: A URL, a ``Webhook``, or a function, sync or async, that is called until it succeeds.
OnComplete: TypeAlias = str | Receiver | Callable[[Completed], object | Awaitable[object]]


def completion_key(endpoint_key: str) -> str:
    """Return the identity of the handler that tells of the runs of an endpoint."""
    return f"{endpoint_key}{_SUFFIX}"


def completion_run(
    env: AppConfig, run: Run, phase: Phase, now: int, traceparent: str | None
) -> NewRun:
    """Return the run that tells of the end of a run.

    Args:
        env: the application.
        run: has ended.
        phase: how.
        now: when, epoch milliseconds.
        traceparent: the trace context that both belong to; None without one.
    """
    from durable_core.codec.records import dump_request
    from durable_core.model.run import plain_key
    from durable_core.ports import NewRun, StoredRequest

    key = plain_key(run)
    told = {
        "run_id": run.id,
        "endpoint": key,
        "name": run.function_id,
        "status": phase.value,
        "key": run.key,
        "labels": dict(run.labels),
    }
    request = Request(
        method="POST",
        url="http://localhost/",
        headers={"content-type": "application/json"},
        body=json.dumps({"ended_at": now, **told}).encode(),
    )
    new = Run(
        id=env.ids.ulid(now),
        app=run.app,
        endpoint_key=completion_key(key),
        function_id=f"{run.function_id}{_SUFFIX}"[:255],
        phase=Phase.SUSPENDED,
        retries=COMPLETION_RETRIES,
        created_at=now,
        key=run.id,
        version=run.version,
        traceparent=traceparent,
    )
    head = dump_request(request, stored_headers=frozenset())
    return NewRun(run=new, request=StoredRequest(head=head, body=request.body))


def completed_of(request: Request, delivery_id: str) -> Completed:
    """Return what the request of such a run tells."""
    told: dict[str, Any] = json.loads(request.body)
    ended_at = told.pop("ended_at")
    return Completed(id=delivery_id, ended=time_of(ended_at), **told)
