"""The way into a harness: one ``with`` block, of either kind."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any

from durable_core.api.durable import Durable
from durable_core.errors import ConfigurationError
from durable_core.testing.bench import Bench
from durable_core.testing.harnesses import AsyncHarness, Harness

__all__ = ["harness"]

#: So long (real seconds) a step that is in flight at the end of a test may take.
_STOP = 1.0


class harness:  # noqa: N801 - used as a function is
    """Take an application into a test: ``with harness(durable) as t:``.

    Within the block the application works on an empty store in memory, with a clock that stands
    still until the test moves it, without jitter in its back-offs, and runs one handler at a time.
    Afterwards it is as it was. In asynchronous tests it is ``async with harness(durable) as t:``,
    and ``async def`` handlers run on the test's event loop.

    Args:
        durable: the application; its endpoints are used as they are.
        start: what the clock shows at first, an aware ``datetime``; 2030-01-01 by default.

    Raises:
        ConfigurationError: on entering: the application is started, or the wrong ``with``.
        UnusedFaultError: on leaving: a failure or crash that was planned has not happened.
    """

    def __init__(self, durable: Durable[Any], *, start: datetime | None = None) -> None:
        self._bench = Bench(durable, start)
        self._stack = ExitStack()

    def __enter__(self) -> Harness:
        if _on_a_loop():
            raise ConfigurationError("on an event loop it is 'async with harness(...)'")
        self._stack.enter_context(self._bench.in_place())
        return Harness(self._bench)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            self._bench.engine.stop(_STOP)
        if error is None:
            self._bench.faults.check_used()

    async def __aenter__(self) -> AsyncHarness:
        self._stack.enter_context(self._bench.in_place())
        return AsyncHarness(self._bench)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            await self._bench.durable.stop_async(_STOP)
        if error is None:
            self._bench.faults.check_used()


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
