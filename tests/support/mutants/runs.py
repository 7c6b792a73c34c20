"""Servers that do something to runs, to events, and to their own start and stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from durable_core import Durable
from durable_core.adapters import AdapterApp, AppAdapter
from durable_core.duration import Duration
from durable_core.ports import Checkpoint, CheckpointResult, SendEvents, Sent, StoredSecret
from durable_core.routing import Routes
from support.mutants.base import (
    BASE,
    Mutant,
    Mutants,
    find,
)

__all__ = [
    "MUTANTS",
    "committing",
    "lose_events",
    "only_runs",
    "without_body",
    "without_memos",
]


def committing(change: Callable[[Any], Any]) -> Callable[[Durable[Any]], None]:
    """Change every message to the store; None drops it."""

    def start(durable: Durable[Any]) -> None:
        store: Any = durable.engine.store
        whole = store.commit

        def commit(writes: Sequence[Any], *, wait: float) -> Sequence[Any]:
            return [_answer(whole, change(write), write, wait) for write in writes]

        store.commit = commit

    return start


def _answer(commit: Any, changed: Any, write: Any, wait: float) -> Any:
    if changed is not None:
        return commit([changed], wait=wait)[0]
    if isinstance(write, SendEvents):
        return Sent(ids=tuple(str(event.id) for event in write.events), resumed_runs=())
    return CheckpointResult()


def only_runs(change: Callable[[Checkpoint], Checkpoint]) -> Callable[[Any], Any]:
    return lambda write: change(write) if isinstance(write, Checkpoint) else write


def _at_once(write: Checkpoint) -> Checkpoint:
    pending = tuple(replace(each, due_at=write.now) for each in write.pending)
    release = write.release and replace(write.release, due_at=write.now)
    return replace(write, pending=pending, release=release)


def without_body(write: Checkpoint) -> Checkpoint:
    return replace(write, request=write.request and replace(write.request, body=b""))


def without_memos(write: Checkpoint) -> Checkpoint:
    return replace(write, memos=write.memos if write.create is not None else ())


def _without_sends(write: Checkpoint) -> Checkpoint:
    return replace(write, events=())


def _without_timeouts(write: Checkpoint) -> Checkpoint:
    late = tuple(
        replace(each, due_at=each.due_at + 10**9) if each.event else each for each in write.pending
    )
    release = write.release
    if release is not None and any(each.event for each in write.pending):
        release = replace(release, due_at=release.due_at + 10**9)
    return replace(write, pending=late, release=release)


def _matching_all(write: Checkpoint) -> Checkpoint:
    rules = tuple(
        replace(each, rule='{"event":"go"}', match_path="", match_key="") for each in write.pending
    )
    return replace(write, pending=rules)


def lose_events(write: Any) -> Any:
    return None if isinstance(write, SendEvents) else write


def _new_ids(write: Any) -> Any:
    if not isinstance(write, SendEvents):
        return write
    events = tuple(replace(each, id=f"{each.id}-{time.monotonic_ns()}") for each in write.events)
    return replace(write, events=events)


def _late_events(durable: Durable[Any]) -> None:
    """A wait that hears only what comes after it."""
    store: Any = durable.engine.store
    store._earliest_answer = lambda app, pending: None


def _first_only(durable: Durable[Any]) -> None:
    """An event that wakes one run and no other."""
    store: Any = durable.engine.store
    of = store._of
    store._of = lambda app: list(of(app))[:1]


def _with_secret(durable: Durable[Any]) -> None:
    store: Any = durable.engine.store
    secret = str(id(durable)).encode().ljust(32)
    store._secrets = [StoredSecret(value=secret, created_at=0)]


class DeafAdapter(AppAdapter[AdapterApp]):
    """An adapter that takes no options."""

    def with_options(self, **options: Any) -> DeafAdapter:
        return self


def _do_not_start(durable: Durable[Any]) -> None:
    """A server that does not start the engine, whose first request does."""

    def start(*, server_threads: int | None = None) -> None:
        pass

    durable.start = start  # type: ignore[method-assign]


def _cancel_all(durable: Durable[Any]) -> None:
    """A server that takes its runs with it."""
    stop = durable.stop

    def cancel_all(timeout: Duration = 10.0) -> None:
        for run in durable.runs.list():
            durable.runs.cancel(run.id)
        stop(timeout)

    durable.stop = cancel_all  # type: ignore[method-assign]


def _leave_a_thread(durable: Durable[Any]) -> None:
    """A server that leaves something running."""
    stopped = threading.Event()
    threading.Thread(target=stopped.wait, args=(4,), name="forgotten", daemon=True).start()


class CutOff(Mutant):
    """A server that cuts its clients off when it stops."""

    @contextmanager
    def serve(self, routes: Routes, *, durable: Durable[Any]) -> Iterator[str]:
        connections: list[Any] = []
        setup = BASE.Handler.setup

        def remember(handler: Any) -> None:
            connections.append(handler.request)
            setup(handler)

        self.handler_class.setup = remember
        with super().serve(routes, durable=durable) as url:
            yield url
            for connection in connections:
                try:
                    connection.shutdown(2)
                except OSError:
                    pass


#: See ``base.Mutants``.
MUTANTS: Mutants = {
    "forgets_checkpoints": (Mutant(start=committing(only_runs(without_memos))), ("L2",)),
    "forgets_the_body": (Mutant(start=committing(only_runs(without_body))), ("L3",)),
    "never_retries": (
        Mutant(adapter=BASE.Subject.endpoint_adapter.with_options(retries=0)),
        ("L4", "L7"),
    ),
    "takes_no_options": (Mutant(adapter=DeafAdapter(AdapterApp)), ("L5", "H4", "H5", "H6", "H7")),
    "retries_at_once": (Mutant(start=committing(only_runs(_at_once))), ("L8",)),
    "forgets_its_secret": (Mutant(start=_with_secret), ("W6",)),
    "loses_events": (Mutant(start=committing(lose_events)), ("E1", "E8")),
    "never_times_out": (Mutant(start=committing(only_runs(_without_timeouts))), ("E2",)),
    "matches_everything": (Mutant(start=committing(only_runs(_matching_all))), ("E3",)),
    "forgets_early_events": (Mutant(start=_late_events), ("E4",)),
    "wakes_one_run": (Mutant(start=_first_only), ("E5",)),
    "takes_events_twice": (Mutant(start=committing(_new_ids)), ("E6",)),
    "does_not_send": (Mutant(start=committing(only_runs(_without_sends))), ("E7",)),
    "does_not_start": (Mutant(start=_do_not_start), ("S1", "S5")),
    "takes_runs_along": (Mutant(start=_cancel_all), ("S2",)),
    "cannot_detach_in_steps": (Mutant(declares="detach-in-step"), ("S6",)),
    "cuts_clients_off": (CutOff(), ("S3", "S4")),
    "leaves_threads": (Mutant(start=_leave_a_thread), ("S5",)),
}


def __getattr__(name: str) -> Mutant:
    return find(MUTANTS, name)
