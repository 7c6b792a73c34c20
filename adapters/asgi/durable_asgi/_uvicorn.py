"""uvicorn in a thread. The one module that needs it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress

import uvicorn

from durable_asgi._lifespan import STOP_TIMEOUT
from durable_asgi._types import ASGIApplication
from durable_core.adapters import EngineLifecycle, stop_on_signals, url_of

__all__ = ["BackgroundServer"]

_logger = logging.getLogger("durable.asgi")
#: Seconds between two looks at whether the server has ended.
_LOOK_EVERY = 0.5


class BackgroundServer(uvicorn.Server):
    """Serves an application on an event loop in a thread of its own.

    Args:
        application: what to serve, lifespan included.
        engines: what is started before it, and stopped while its last answers are sent.
        listeners: bound sockets, all with the same port; the server closes them.

    Attributes:
        port: the port it listens on.
        url: the URL of its root, as this machine can reach it.
    """

    def __init__(
        self,
        application: ASGIApplication,
        engines: Sequence[EngineLifecycle],
        listeners: Sequence[socket.socket],
    ) -> None:
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,  # it would hold the tokens that are in URLs
            ws="none",
            proxy_headers=False,  # which any client of this machine could send
            timeout_graceful_shutdown=int(STOP_TIMEOUT),
        )
        super().__init__(config)
        self._engines = engines
        self._listeners = list(listeners)
        self.port: int = self._listeners[0].getsockname()[1]
        self.url = url_of(self._listeners[0])
        self._accepting: Future[None] = Future()
        self._leaving = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="durable-asgi", daemon=True)

    def launch(self) -> None:
        """Start the thread; return when it accepts connections.

        Raises:
            Exception: what kept an engine from starting.
            RuntimeError: the application refused to start; it has logged why.
        """
        self._thread.start()
        self._accepting.result()
        _logger.info("serving on %s", self.url)

    def wait(self) -> None:
        """Wait until it has ended, as it does in good order on SIGTERM and SIGINT.

        The second signal ends it at once.
        """
        with stop_on_signals(self._leave):
            # A signal that comes right before an endless wait would not end it.
            while self._thread.is_alive():
                self._thread.join(_LOOK_EVERY)

    def end(self, timeout: float) -> None:
        """End in good order and wait for that; cut off what lasts longer than ``timeout`` seconds.

        A part of a second counts as a whole one.
        """
        self.config.timeout_graceful_shutdown = math.ceil(timeout)
        self._begin_to_end()
        self._thread.join()

    def _begin_to_end(self) -> None:
        self.should_exit = True
        with suppress(RuntimeError):  # it has ended already, and its loop is closed
            self._loop.call_soon_threadsafe(self._leaving.set)

    def _leave(self) -> None:
        self.force_exit = self.should_exit
        self._begin_to_end()

    def _run(self) -> None:
        try:
            self.run(sockets=self._listeners)
        except SystemExit:
            pass  # how uvicorn says that the application refused to start
        except BaseException as error:
            if self._accepting.done():
                raise
            self._accepting.set_exception(error)
        finally:
            for listener in self._listeners:
                listener.close()
            if not self._accepting.done():
                text = "the application did not start; its log says why"
                self._accepting.set_exception(RuntimeError(text))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the engines on this loop, then accept connections."""
        self._loop = asyncio.get_running_loop()
        try:
            for engine in self._engines:
                engine.start()
            await super().startup(sockets=sockets)
        finally:
            if not self.started:
                await self._stop_engines()
        if self.started:
            self._accepting.set_result(None)

    async def main_loop(self) -> None:
        """Serve until the end is begun, for which uvicorn looks ten times a second."""
        looking = asyncio.create_task(super().main_loop())
        leaving = asyncio.create_task(self._leaving.wait())
        await asyncio.wait((looking, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not looking.cancel():
            await looking

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more. The engines hand clients off meanwhile, which ends their requests."""
        stopping = asyncio.create_task(self._stop_engines())
        try:
            await super().shutdown(sockets=sockets)
        finally:
            await stopping
            # A request that was on its way meanwhile may have started one again.
            await self._stop_engines()

    async def _stop_engines(self) -> None:
        timeout = self.config.timeout_graceful_shutdown or 0
        for engine in self._engines:
            await asyncio.to_thread(engine.stop, timeout)
