"""A node that does nothing by itself: the test says when it looks for what is due."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from durable_core.api.adapter import HTTPHandler
from durable_core.errors import NotDeterministicError
from durable_core.flow.current import Face, Scope
from durable_core.flow.env import Env
from durable_core.machine.accept import accepts_stream
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.ports import Bury, Store
from durable_core.runtime.keeper import Keeper
from durable_core.runtime.node import Node
from durable_core.runtime.settings import Registered, Settings
from durable_core.testing.faults import Faults
from durable_core.testing.replay import Replays
from durable_core.testing.scope import WatchedScope

__all__ = ["ASKING", "Exchange", "SteeredKeeper", "SteeredNode"]


@dataclass(slots=True)
class Exchange:
    """One request of a test's client.

    Attributes:
        handler: what it goes to.
        request: the request.
        follow: the client wants the final response.
        run_id: the run that was begun for it, if one was.
    """

    handler: HTTPHandler
    request: Request
    follow: bool
    run_id: str | None = None


#: The exchange that the calling code is in.
ASKING: ContextVar[Exchange | None] = ContextVar("durable_asking", default=None)


class SteeredKeeper(Keeper):
    """A keeper without a thread; somebody calls :meth:`catch_up`."""

    def start(self) -> None:
        """Register the process."""
        self.register()


class SteeredNode(Node):
    """Runs one handler at a time, and only what it is told to.

    Args:
        env, settings, store, endpoints: see ``Node``.
        faults: what is to go wrong.
        replays: what is known about replays.
        cancel: ends a run, given its id.

    Attributes:
        calls: how often each step's function was called, by run id and step.
        gone: runs that a crash has left no trace of.
        problems: what a test must be told.
    """

    def __init__(
        self,
        env: Env,
        settings: Settings,
        store: Store,
        endpoints: dict[str, Registered],
        *,
        faults: Faults,
        replays: Replays,
        cancel: Callable[[str], object],
    ) -> None:
        super().__init__(env, settings, store, endpoints)
        self.keeper: Keeper = SteeredKeeper(self)
        self.faults = faults
        self.replays = replays
        self.calls: Counter[tuple[str, str]] = Counter()
        self.gone: set[str] = set()
        self._cancel = cancel
        self.problems: list[NotDeterministicError] = []
        self._exchanges: dict[int, Exchange] = {}

    # -- serving and resuming, as of Node ---------------------------------------------------

    def serve(self, endpoint: Registered, request: Request, route: str | None) -> Response:
        """Serve a client in this thread."""
        with self._expecting(request):
            return super().serve(endpoint, request, route)

    async def serve_async(
        self, endpoint: Registered, request: Request, route: str | None
    ) -> Response:
        """Serve a client on an event loop."""
        with self._expecting(request):
            return await super().serve_async(endpoint, request, route)

    @contextmanager
    def _expecting(self, request: Request) -> Iterator[None]:
        """Note the run of this very request: its handler may be called in another context."""
        exchange = ASKING.get()
        if exchange is None:
            yield
            return
        self._exchanges[id(request)] = exchange
        try:
            yield
        finally:
            if not accepts_stream(request.headers):  # else its handler may not have begun
                self._exchanges.pop(id(request), None)

    def capacity(self, face: Face) -> int:
        """Return 1 while nothing is live: one run goes as far as it can before the next."""
        return 0 if len(self.live) else 1

    def scope(self, run: Scope) -> Scope:
        """Put the test between a run and its handler."""
        exchange = self._exchanges.pop(id(run.ex.request), None)
        if exchange is not None:
            exchange.run_id = run.ex.run.id
        return WatchedScope(run, self)

    # -- what a scope needs -----------------------------------------------------------------

    def called(self, run_id: str, step_name: str) -> None:
        """Note that the function of a step is called."""
        self.calls[run_id, step_name] += 1

    def crash(self) -> None:
        """Let go of every run, as a process that dies; take them over under a new name."""
        dead, lost = self.keeper.owner, self.live.all()
        self.keeper.register()
        self.queue.execute(Bury(ids=(dead,), now=self.env.clock.now()))
        for live in lost:
            if not live.ex.stored:
                self.gone.add(live.ex.run.id)
            live.lose()

    def throw_away(self, run_id: str) -> None:
        """Have the handler of a run put away when nothing of it is in flight; it is due at once."""
        live = self.live.get(run_id)
        if live is not None:
            live.stop()

    def refuse(self, run_id: str, error: NotDeterministicError) -> None:
        """End a run that cannot be tested, and tell the test why."""
        self.problems.append(error)
        self._cancel(run_id)
