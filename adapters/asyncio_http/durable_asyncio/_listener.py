"""The server on one event loop: it accepts connections, and lets them end in good order."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from functools import partial

from durable_asyncio._connection import Application, Connection, refuse
from durable_asyncio._incoming import Incoming
from durable_asyncio._outgoing import Outgoing
from durable_asyncio._sockets import BACKLOG, MAX_CONNECTIONS, check_most, has_hung_up
from durable_asyncio._timeouts import Timeouts
from durable_core import Limits
from durable_core.api.adapter import EngineLifecycle
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = ["Listener"]

_logger = logging.getLogger("durable.asyncio")
#: Seconds that a client has to agree to the end of TLS.
_TLS_SHUTDOWN = 2.0
#: Seconds that connections have to end after they were cut off.
_LAST = 1.0


class Listener:
    """Serves an application. All of it happens on one event loop.

    Args:
        application: what answers.
        engines: what is started before it, and stopped while its last answers are sent.
        limits: of a request's head and body.
        timeouts: of clients.
        tls: serve HTTPS with it.
        max_connections: clients over so many are refused with 503.

    Raises:
        ValueError: ``max_connections`` is less than 1.
    """

    def __init__(
        self,
        application: Application,
        engines: Sequence[EngineLifecycle],
        *,
        limits: Limits,
        timeouts: Timeouts,
        tls: ssl.SSLContext | None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._most = check_most(max_connections)
        self._refusals: set[asyncio.Task[None]] = set()
        self._application = application
        self._engines = engines
        self._limits = limits
        self._timeouts = timeouts
        self._tls = tls
        self.scheme = "http" if tls is None else "https"
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._draining = False

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """Start the engines, then accept connections.

        Args:
            sockets: listening ones; they are closed in the end, also if this fails.

        Raises:
            StoreError: a store cannot be opened.
        """
        tls = self._tls
        try:
            for engine in self._engines:
                engine.start()
            for each in sockets:
                server = await asyncio.start_server(
                    self._accept,
                    sock=each,
                    backlog=BACKLOG,
                    ssl=tls,
                    ssl_handshake_timeout=self._timeouts.head if tls else None,
                    ssl_shutdown_timeout=_TLS_SHUTDOWN if tls else None,
                )
                self._servers.append(server)
        except BaseException:
            for each in sockets:
                each.close()
            raise

    async def drain(self, timeout: float) -> None:
        """Accept no more, hand clients off, let answers in flight be sent, and close.

        Args:
            timeout: seconds to wait. Steps still in flight then will run again, and clients still
                connected, as well as if this is cancelled, are cut off.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        self._draining = True
        try:
            await self._stop_accepting()
            for connection in self._connections.values():
                connection.drain()
            await self._stop_engines(timeout)
            if self._connections:
                await asyncio.wait(self._connections, timeout=_left(deadline))
        finally:
            await self._cut()
        # A request that was on its way meanwhile may have started one again.
        await self._stop_engines(_left(deadline))

    async def _stop_accepting(self) -> None:
        """Close the listening sockets.

        asyncio loses a client that it has accepted without having made a transport of it by then
        (``Server._attach`` fails, and nobody closes the socket): it gets a moment to do so.
        """
        loop = asyncio.get_running_loop()
        for server in self._servers:
            for each in server.sockets:
                loop.remove_reader(each.fileno())
        await asyncio.sleep(0)
        for server in self._servers:
            server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._draining:
            writer.transport.abort()
            return
        peer = writer.get_extra_info("socket")
        incoming = Incoming(reader, partial(has_hung_up, peer))
        out = Outgoing(writer, self._timeouts.write)
        if len(self._connections) >= self._most:
            self._turn_away(incoming, out)
            return
        connection = Connection(
            self._application,
            incoming,
            out,
            limits=self._limits,
            timeouts=self._timeouts,
            scheme=self.scheme,
            server=writer.get_extra_info("sockname"),
        )
        task = asyncio.get_running_loop().create_task(connection.serve())
        self._connections[task] = connection
        task.add_done_callback(self._ended)

    def _turn_away(self, incoming: Incoming, out: Outgoing) -> None:
        """Refuse a client; without a word if so many others are just being refused."""
        if len(self._refusals) >= self._most:
            out.cut()
            return
        if not self._refusals:
            _logger.warning("%d clients are connected: further ones are refused", self._most)
        task = asyncio.get_running_loop().create_task(refuse(incoming, out))
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("a connection broke", exc_info=error)

    async def _cut(self) -> None:
        if not self._connections:
            return
        _logger.warning("%d clients were still connected and were cut off", len(self._connections))
        for task, connection in self._connections.items():
            connection.cut()
            task.cancel()
        await asyncio.wait(self._connections, timeout=_LAST)

    async def _stop_engines(self, timeout: float) -> None:
        """Stop them in threads, for that blocks, and they may need this loop for it."""
        loop = asyncio.get_running_loop()
        pool = DaemonThreadPool(max(1, len(self._engines)), "durable-stop")
        stops = [loop.run_in_executor(pool, engine.stop, timeout) for engine in self._engines]
        pool.shutdown()
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, Exception):
                _logger.error("an engine could not be stopped in good order", exc_info=outcome)


def _left(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())
