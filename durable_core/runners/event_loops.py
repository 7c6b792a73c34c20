"""The event loops of ``async def`` handlers: the server's, or one of the engine's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from durable_core.platform import call_soon, logger
from durable_core.runners.run_tasks import watch_loop

__all__ = ["LoopThread", "Loops"]

T = TypeVar("T")


class LoopThread:
    """One long-lived event loop in a daemon thread.

    Args:
        patience: seconds that :meth:`stop` leaves to tasks which do not end when cancelled, and
            as many again to code which does not let the loop go on.
    """

    def __init__(self, patience: float = 5.0) -> None:
        self._patience = patience
        self.loop = asyncio.new_event_loop()
        watch_loop(self.loop)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="durable-loop", daemon=True)
        self._thread.start()

    def run(self, awaitable: Awaitable[T]) -> T:
        """Await something on the loop, and block until it is there. Not from the loop's thread."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("the event loop's own thread cannot block on the event loop")

        async def wrapped() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result()

    def stop(self) -> None:
        """End the loop and its thread."""
        self._stopped = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(2 * self._patience)
        if self._thread.is_alive():
            logger.warning("the engine's event loop is blocked by code on it, and is left behind")

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            while not self._stopped:
                try:
                    self.loop.run_forever()
                except (KeyboardInterrupt, SystemExit) as error:
                    # Raised by a handler; asyncio lets it out of the loop. It ends only its run.
                    logger.error("a handler raised %r on the engine's event loop", error)
        finally:
            leftover = asyncio.all_tasks(self.loop)
            for task in leftover:
                task.cancel()
            self.loop.run_until_complete(_wait_for_end(leftover, self._patience))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(asyncio.sleep(0))  # transports close a turn later
            self.loop.close()


class Loops:
    """The event loops of one worker.

    Handlers run, and are replayed, on the loop that serves the application. Only where there is
    none does the worker make one.

    Attributes:
        adopted: the loop that serves the application, once one is known.
    """

    def __init__(self) -> None:
        self.server_loop: asyncio.AbstractEventLoop | None = None
        self._background: LoopThread | None = None
        self._lock = threading.Lock()
        self._sentinels: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def adopt_running(self) -> asyncio.AbstractEventLoop:
        """Use the loop that runs now, and return it; see :meth:`adopt`.

        This is cheap for the loop that is in use.
        """
        loop = asyncio.get_running_loop()
        guard = self._sentinels.get(loop)
        if loop is not self.server_loop or guard is None or guard.done():
            self.adopt(loop)
        return loop

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use this loop from now on, unless another is in use. Called on the loop's thread."""
        guard = self._sentinels.get(loop)
        if guard is None or guard.done():
            watch_loop(loop)
            known = {each: task for each, task in self._sentinels.items() if not each.is_closed()}
            self._sentinels = {
                **known,
                loop: loop.create_task(_sleep_forever(), name="durable-guard"),
            }
        if (
            self.server_loop is None
            or self.server_loop.is_closed()
            or self.is_shutting_down(self.server_loop)
        ):
            self.server_loop = loop

    def is_shutting_down(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether the loop is being shut down.

        ``asyncio.run`` ends by cancelling all tasks of its loop. A run must not take that for a
        cancellation by the code of its handler; it was if a task of ours was cancelled too.
        """
        guard = self._sentinels.get(loop)
        return guard is not None and (guard.done() or guard.cancelling() > 0)

    @property
    def background_loop(self) -> LoopThread:
        """The worker's own event loop, made when it is first needed."""
        with self._lock:
            if self._background is None:
                self._background = LoopThread()
            return self._background

    def is_background_loop(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether the loop is the worker's own. This makes no loop."""
        own = self._background
        return own is not None and own.loop is loop

    @property
    def replay_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that handlers are replayed on."""
        loop = self.server_loop
        if loop is None or loop.is_closed() or self.is_shutting_down(loop):
            return self.background_loop.loop
        return loop

    def stop(self) -> None:
        """Forget the loops, and end the worker's own."""
        guards, self._sentinels = self._sentinels, {}
        for loop, guard in guards.items():
            call_soon(loop, guard.cancel)
        if self._background is not None:
            self._background.stop()


async def _wait_for_end(tasks: Iterable[asyncio.Task[object]], patience: float) -> None:
    """Wait until cancelled tasks have ended, at most ``patience`` seconds."""
    ended = asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.wait((ended,), timeout=patience)


async def _sleep_forever() -> None:
    await asyncio.get_running_loop().create_future()
