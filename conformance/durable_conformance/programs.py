"""Handlers written once for both kinds, and what their steps do."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from durable_conformance.wire import patience
from durable_core import Request, step, sync

__all__ = [
    "LONG_NAP",
    "NAP",
    "CallLog",
    "Gate",
    "Program",
    "Script",
    "handler_of",
    "until",
]

T = TypeVar("T")

#: Seconds that a run sleeps to have its client handed off, which a sleep does however short it is.
NAP = 0.05
#: The same where nobody waits for the end.
LONG_NAP = 3600.0

#: What a program returns.
Script: TypeAlias = Generator[Any, Any, Any]
#: A handler, written once for both kinds: a generator function of the request and the steps, which
#: yields each step call and is sent its result, as in ``value = yield step.run("a", fn)``.
Program: TypeAlias = Callable[[Request, Any], Script]


def handler_of(program: Program, handler_kind: str) -> Callable[[Request], Any]:
    """Return the ``def`` or ``async def`` handler of a program."""

    def sync_handler(request: Request) -> Any:
        running = program(request, sync.step)
        value: Any = None
        while True:
            try:
                value = running.send(value)
            except StopIteration as end:
                return end.value

    async def async_handler(request: Request) -> Any:
        running = program(request, step)
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                asked = running.send(value) if error is None else running.throw(error)
            except StopIteration as end:
                return end.value
            try:
                value, error = await asked, None
            except BaseException as caught:
                value, error = None, caught

    return sync_handler if handler_kind == "sync" else async_handler


class CallLog:
    """Counts what the functions of steps did, as the outside world would see it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}

    def record(self, name: str, value: T) -> T:
        """Note that a step's function ran, and return the value."""
        with self._lock:
            self._counts[name] += 1
            self.times.setdefault(name, []).append(time.monotonic())
        return value

    def fail_first(self, name: str, times: int, error: Exception) -> int:
        """Raise the error so many times, then return how many calls there were."""
        count = self.record(name, self.count(name) + 1)
        if count <= times:
            raise error
        return count

    def take_back(self, name: str) -> None:
        """Take one call back."""
        with self._lock:
            self._counts[name] -= 1

    def count(self, name: str) -> int:
        """Return how often a function ran."""
        with self._lock:
            return self._counts[name]

    def counts(self) -> dict[str, int]:
        """Return how often each function ran."""
        with self._lock:
            return dict(self._counts)


class Gate:
    """Keeps a step's function from ending until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def wait_open(self, value: T) -> T:
        """Wait at the gate, then return the value."""
        self._reached.set()
        if not self._opened.wait(patience()):
            raise TimeoutError("nobody has opened the gate")
        return value

    def wait_reached(self) -> None:
        """Wait until somebody is at the gate."""
        assert self._reached.wait(patience()), "nobody has come to the gate"

    def open(self) -> None:
        """Let everybody pass."""
        self._opened.set()


def until(claim: Callable[[], T], what: str) -> T:
    """Wait until a claim holds, and return what it gave."""
    give_up = time.monotonic() + patience()
    while not (value := claim()):
        assert time.monotonic() < give_up, f"it never happened that {what}"
        time.sleep(0.003)
    return value
