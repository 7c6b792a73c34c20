"""The server on one event loop: it accepts connections, and lets them end in good order."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from durable_asyncio._connection import Connection, refuse
from durable_asyncio._incoming import Incoming
from durable_asyncio._outgoing import Outgoing
from durable_asyncio._sockets import has_hung_up
from durable_asyncio._timeouts import Timeouts
from durable_core.adapters import (
    App,
    ClientDisconnectedError,
    DaemonThreadPool,
    EngineLifecycle,
    check_max_connections,
    default_max_connections,
    is_out_of_descriptors,
)

__all__ = ["Listener", "max_connections_of"]

_logger = logging.getLogger("durable.asyncio")
#: So many clients are served at a time, unless said otherwise.
_MAX_CONNECTIONS = 10_000
#: So many are told at a time that there are too many; others are cut off.
_MAX_REFUSALS = 64
#: Connections that are accepted before others get their turn on the event loop.
_AT_ONCE = 64
#: Seconds for which no client is accepted when the process is out of descriptors.
_BACK_OFF = 1.0
#: Seconds that a client has to agree to the end of TLS, after the time for what is still sent.
_TLS_SHUTDOWN = 2.0
#: The most that is encrypted ahead; asyncio's own number is 512 KiB. How much of that a client has
#: taken is not seen before it has taken nearly all.
_TLS_AHEAD = 65536
#: The most that the system takes of what it cannot send yet, bytes; it takes more when half of that
#: is sent. With 64 KiB, a large stream takes some 15 % longer than without a limit; with this, 4 %.
_UNSENT = 131_072
#: Seconds that connections have to end after they were cut off.
_LAST = 1.0


def max_connections_of(most: int | None) -> int:
    """Return how many clients are served at a time; ``None`` for the default.

    Raises:
        ValueError: less than 1.
    """
    return (
        default_max_connections(_MAX_CONNECTIONS) if most is None else check_max_connections(most)
    )


class Listener:
    """Serves an application. All of it happens on one event loop.

    Args:
        app: what answers.
        engines: what is started before it, and stopped while its last answers are sent.
        timeouts: of clients.
        tls: serve HTTPS with it.
        max_connections: clients over so many, TLS handshakes included, are refused with 503.

    Raises:
        ValueError: ``max_connections`` is less than 1.
        TypeError: ``tls`` is no ``SSLContext``.
    """

    def __init__(
        self,
        app: App,
        engines: Sequence[EngineLifecycle],
        *,
        timeouts: Timeouts,
        tls: ssl.SSLContext | None,
        max_connections: int | None = None,
    ) -> None:
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise TypeError(f"ssl= must be an ssl.SSLContext, not {tls!r}")
        self._most = max_connections_of(max_connections)
        self._app = app
        self._engines = engines
        self._timeouts = timeouts
        self._tls = tls
        self.scheme = "http" if tls is None else "https"
        self._sockets: list[socket.socket] = []
        # A socket as long as there is no connection on it yet: during the TLS handshake.
        self._clients: dict[asyncio.Task[None], Connection | socket.socket] = {}
        self._refusals: set[asyncio.Task[None]] = set()
        self._draining = False

    async def open(self, sockets: Sequence[socket.socket]) -> None:
        """Start the engines, then accept connections.

        Args:
            sockets: listening ones; they are closed in the end, also if this fails.

        Raises:
            StoreError: a store cannot be opened.
        """
        self._sockets = list(sockets)
        try:
            for engine in self._engines:
                engine.start()
            for each in sockets:
                each.setblocking(False)
                _show_progress(each)
                self._start_accepting(each)
        except BaseException:
            self._stop_accepting()
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
            self._stop_accepting()
            for client in self._clients.values():
                if isinstance(client, Connection):
                    client.drain()
                else:
                    with suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)
            await self._stop_engines(timeout)
            if self._clients:
                await asyncio.wait(self._clients, timeout=_seconds_until(deadline))
        finally:
            await self._cut()
        # A request that was on its way meanwhile may have started one again.
        await self._stop_engines(_seconds_until(deadline))

    def _start_accepting(self, listener: socket.socket) -> None:
        if not self._draining:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _stop_accepting(self) -> None:
        """Close the listening sockets."""
        for listener in self._sockets:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        """Accept who waits.

        Not by ``asyncio.start_server``: that tries a thousand times in a row when the process is
        out of descriptors, with a traceback for each, and shows clients only after their handshake.
        """
        for _ in range(_AT_ONCE):
            try:
                client, _ = listener.accept()
            except OSError as error:
                if is_out_of_descriptors(error):
                    self._back_off(listener, error)
                return  # nobody waits any more, or who did is gone again
            client.setblocking(False)
            self._take(client)

    def _back_off(self, listener: socket.socket, error: OSError) -> None:
        """Wait for connections to end: the one that could not be accepted stays ready."""
        _logger.error("no client can be accepted: %s; waiting %s s", error, _BACK_OFF)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(_BACK_OFF, self._start_accepting, listener)

    def _take(self, client: socket.socket) -> None:
        """Serve a client, or refuse it; without a word if many are just being refused."""
        loop = asyncio.get_running_loop()
        if len(self._clients) < self._most:
            task = loop.create_task(self._serve(client))
            self._clients[task] = client
            task.add_done_callback(self._on_connection_end)
        elif len(self._refusals) < _MAX_REFUSALS:
            if not self._refusals:
                _logger.warning("%d clients are connected: further ones are refused", self._most)
            task = loop.create_task(self._turn_away(client))
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)
        else:
            client.close()

    async def _serve(self, client: socket.socket) -> None:
        if self._draining:
            client.close()
            return
        incoming, out, server = await self._connect(client)
        connection = Connection(
            self._app,
            incoming,
            out,
            timeouts=self._timeouts,
            scheme=self.scheme,
            server=server,
        )
        task = asyncio.current_task()
        assert task is not None
        self._clients[task] = connection
        if self._draining:
            connection.drain()
        await connection.serve()

    async def _turn_away(self, client: socket.socket) -> None:
        try:
            incoming, out, _ = await self._connect(client)
            await refuse(self._app, incoming, out)
        except ClientDisconnectedError as error:
            _logger.debug("a client went away: %s", error)

    async def _connect(self, client: socket.socket) -> tuple[Incoming, Outgoing, Any]:
        """Return the two ways of a connection, after the TLS handshake, and the server's address.

        Raises:
            ClientDisconnectedError: there was no handshake.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        tls = self._tls
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                client,
                ssl=tls,
                ssl_handshake_timeout=self._timeouts.head if tls else None,
                ssl_shutdown_timeout=self._timeouts.write + _TLS_SHUTDOWN if tls else None,
            )
        except OSError as error:
            raise ClientDisconnectedError("the TLS handshake failed") from error
        if tls:
            transport.set_write_buffer_limits(_TLS_AHEAD)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        peer, server = (writer.get_extra_info(name) for name in ("socket", "sockname"))
        incoming = Incoming(reader, partial(has_hung_up, peer))
        return incoming, Outgoing(writer, self._timeouts.write), server

    def _on_connection_end(self, task: asyncio.Task[None]) -> None:
        del self._clients[task]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ClientDisconnectedError):
            _logger.debug("a client went away: %s", error)
        elif error is not None:
            _logger.error("a connection broke", exc_info=error)

    async def _cut(self) -> None:
        if not self._clients:
            return
        _logger.warning("%d clients were still connected and were cut off", len(self._clients))
        for task, client in self._clients.items():
            if isinstance(client, Connection):
                client.abort()
            task.cancel()
        await asyncio.wait(self._clients, timeout=_LAST)

    async def _stop_engines(self, timeout: float) -> None:
        """Stop them in threads, for that blocks, and they may need this loop for it."""
        loop = asyncio.get_running_loop()
        pool = DaemonThreadPool(max(1, len(self._engines)), "durable-stop")
        stops = [loop.run_in_executor(pool, engine.stop, timeout) for engine in self._engines]
        pool.shutdown()
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, Exception):
                _logger.error("an engine could not be stopped in good order", exc_info=outcome)


def _seconds_until(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _show_progress(listening: socket.socket) -> None:
    """Have the system take little that it cannot send yet, on all connections of a socket.

    It has megabytes of room, and takes more only when much of that is free: with them a slow client
    would seem to take nothing for minutes.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None and listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, option, _UNSENT)
