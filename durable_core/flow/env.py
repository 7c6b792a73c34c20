"""The configuration of an application."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from durable_core.codec.json import Codec, JSONCodec
from durable_core.duration import is_int
from durable_core.machine.retry import RetryPolicy

if TYPE_CHECKING:
    from durable_core.ports import Clock, Ids
    from durable_core.ports.observer import Observer

__all__ = ["AppConfig", "Limits", "ProcessLease"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds. Sizes are bytes; each must be 1 or more.

    Attributes:
        body: of a request body; beyond it the answer is 413.
        head: of a request's line and headers, where our own server reads them; beyond it 431.
        step_result: of one step's result as JSON.
        run_state: of all step results of one run.
        steps: number of steps of one run.
        child_runs: of the runs that ``step.invoke`` begins below one run: its children, theirs, and
            so on.
        event: of one event as JSON.
        events: number of events sent at a time.
        waiting_clients: clients held at wait URLs per process; beyond it the answer is 503. Three
            in four of them may read event streams.
        run_clients: those of them that wait for one run.
        thread_streams: event streams at wait URLs that hold a thread of a server each; beyond it
            a stream ends once the client has what there is, and the client comes again.
        response_stored: of a response body that is kept for the wait URL.
        crashes: those in a row without a new checkpoint after which a run fails.
        live_runs: runs of the application that have not ended; beyond it the answer is 503.
        stored_bytes: of all that is in the store; beyond it the answer is 503.
        principal_live_runs: runs of one principal that have not ended; beyond it the answer is 429.
        principal_bytes: of requests and results of one principal's runs; beyond it 429.
        stream_chunk: of one streamed chunk as JSON.
        stream_step: of what one attempt of a step streams, as JSON.
        stream_run: of all that a run streams and keeps.
    """

    body: int = 1024 * 1024
    head: int = 64 * 1024
    step_result: int = 4 * 1024 * 1024
    run_state: int = 32 * 1024 * 1024
    steps: int = 10_000
    child_runs: int = 10_000
    event: int = 256 * 1024
    events: int = 1_000
    waiting_clients: int = 1_000
    run_clients: int = 100
    thread_streams: int = 3
    response_stored: int = 1024 * 1024
    crashes: int = 10
    live_runs: int = 100_000
    stored_bytes: int = 16 * 1024 * 1024 * 1024
    principal_live_runs: int = 1_000
    principal_bytes: int = 256 * 1024 * 1024
    stream_chunk: int = 256 * 1024
    stream_step: int = 4 * 1024 * 1024
    stream_run: int = 32 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not is_int(value) or value < 1:
                raise ValueError(f"Limits.{name} must be an int of 1 or more, not {value!r}")


@dataclass(slots=True)
class ProcessLease:
    """What this process knows of the lease under which it holds runs.

    Attributes:
        owner: the name under which it holds what begins now.
        certain_until: until then, by ``Clock.elapsed``, no other process can have taken its runs.
        lost: the names under which it held runs when others took them.
    """

    owner: str = ""
    certain_until: float = math.inf
    lost: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """The configuration that all flows of one application share.

    Attributes:
        app: the application's id.
        secrets: returns the keys of run tokens; the first signs, all verify.
        refresh_secrets: reads these keys again, which another process may have changed.
        token_ttl: how long a token is valid, milliseconds.
        lease_check_age: a step begins only if the process held the run at most this long ago,
            seconds. It is well below the time after which a lease may be taken over.
        lease: the lease of this process; whoever renews it changes this.
        debug: show stack traces in problem documents.
        observers: who is notified of what happens to runs, beside the log.
        public_url: scheme and authority under which clients reach the application; None takes
            those of the request.
    """

    app: str
    clock: Clock
    ids: Ids
    secrets: Callable[[], Sequence[bytes]]
    refresh_secrets: Callable[[], object] = lambda: None
    codec: Codec = field(default_factory=JSONCodec)
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    limits: Limits = field(default_factory=Limits)
    token_ttl: int = 7 * 24 * 3_600_000
    lease_check_age: float = 1.0
    lease: ProcessLease = field(default_factory=ProcessLease)
    debug: bool = False
    public_url: str | None = None
    observers: tuple[Observer, ...] = ()
