"""Applications made for one case: handlers of either kind, their steps' doings, and a server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from durable_conformance.contract import ServerSubject
from durable_conformance.wire import Client, Reply, patience
from durable_core import Durable, Limits, Request, RetryPolicy, Settings, step, sync
from durable_core.api.application import Target
from durable_core.ports import Store
from durable_core.runtime.memory_store import MemoryStore

__all__ = [
    "ALL_METHODS",
    "Gate",
    "Ledger",
    "More",
    "Program",
    "Script",
    "Site",
    "Stage",
    "handler_of",
    "until",
]

T = TypeVar("T")

#: What a program returns.
Script: TypeAlias = Generator[Any, Any, Any]
#: A handler, written once for both kinds: a generator function of the request and the steps, which
#: yields each step call and is sent its result, as in ``value = yield step.run("a", fn)``.
Program: TypeAlias = Callable[[Request, Any], Script]
#: More routes of an application.
More: TypeAlias = Callable[[Durable[Any]], Mapping[str, Target]]

ALL_METHODS = "GET,HEAD,POST,PUT,PATCH,DELETE"


def handler_of(program: Program, face: str) -> Callable[[Request], Any]:
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

    return sync_handler if face == "sync" else async_handler


class Ledger:
    """Counts what the functions of steps did, as the outside world would see it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}

    def did(self, name: str, value: T) -> T:
        """Note that a step's function ran, and return the value."""
        with self._lock:
            self._counts[name] += 1
            self.times.setdefault(name, []).append(time.monotonic())
        return value

    def fails(self, name: str, times: int, error: Exception) -> int:
        """Raise the error so many times, then return how many calls there were."""
        count = self.did(name, self.count(name) + 1)
        if count <= times:
            raise error
        return count

    def forget(self, name: str) -> None:
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

    def pass_(self, value: T) -> T:
        """Wait at the gate, then return the value."""
        self._reached.set()
        if not self._opened.wait(patience()):
            raise TimeoutError("nobody has opened the gate")
        return value

    def reached(self) -> None:
        """Wait until somebody is at the gate."""
        assert self._reached.wait(patience()), "nobody has come to the gate"

    def open(self) -> None:
        """Let everybody pass."""
        self._opened.set()


class Site(Client):
    """An application that is served."""

    def __init__(self, base_url: str, durable: Durable[Any]) -> None:
        super().__init__(base_url)
        self.durable = durable

    def finish(self, method: str, target: str, **sent: Any) -> Reply:
        """Ask, and follow redirects to the final answer."""
        return self.follow(target, self.ask(method, target, **sent))

    def phases(self) -> list[str]:
        """Return the phase of each run, the newest first."""
        return [record.run.phase.value for record in self.durable.runs.list(limit=1000)]


class Stage:
    """Serves programs on the subject's server.

    Args:
        subject: the server.
        face: the kind of handlers, ``"sync"`` or ``"async"``.
    """

    def __init__(self, subject: ServerSubject, face: str) -> None:
        self.subject = subject
        self.face = face
        self._gates: list[Gate] = []

    def gate(self) -> Gate:
        """Return a gate, which is opened when the case ends, at the latest."""
        self._gates.append(Gate())
        return self._gates[-1]

    @contextmanager
    def serving(
        self,
        program: Program | None = None,
        *,
        methods: str = ALL_METHODS,
        more: More | None = None,
        store: Store | None = None,
        limits: Limits | None = None,
        own: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Iterator[Site]:
        """Serve a program at ``/it``.

        Args:
            program: the handler.
            methods: of its route.
            more: other routes.
            store: None for a new one in memory.
            limits: of the application.
            own: options given to ``Durable.endpoint``.
            **options: options given to the adapter.
        """
        durable: Durable[Any] = Durable(
            id="suite",
            endpoint_adapter=self.subject.endpoint_adapter.with_options(**options),
            store=store or MemoryStore(),
            limits=limits,
            retry=RetryPolicy(base_ms=1, max_ms=1),
            settings=Settings(settle_time=0.01),
        )
        routes: dict[str, Target] = dict(more(durable)) if more is not None else {}
        if program is not None:
            chosen = {"name": "it", **(own or {})}
            routes[f"{methods} /it"] = self.endpoint(durable, program, **chosen)
        with self.subject.serve(routes, durable=durable) as url:
            try:
                yield Site(url, durable)
            finally:
                for gate in self._gates:
                    gate.open()

    def aside(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a blocking function in a handler, outside its steps: ``yield stage.aside(f)``."""
        return function(*args) if self.face == "sync" else asyncio.to_thread(function, *args)

    def endpoint(self, durable: Durable[Any], program: Program, **options: Any) -> Any:
        """Make an endpoint of a program."""
        return durable.endpoint(**options)(handler_of(program, self.face))


def until(claim: Callable[[], T], what: str) -> T:
    """Wait until a claim holds, and return what it gave."""
    give_up = time.monotonic() + patience()
    while not (value := claim()):
        assert time.monotonic() < give_up, f"it never happened that {what}"
        time.sleep(0.003)
    return value
