"""What the servers of adapters share: they are started from Python, and closed in good order."""

from __future__ import annotations

import errno
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from durable_core.duration import is_int

__all__ = [
    "BACKLOG",
    "RunningServer",
    "Server",
    "bind",
    "check_address",
    "check_max_connections",
    "default_max_connections",
    "is_out_of_descriptors",
    "is_reset_on_close",
    "lingering_close",
    "reset_on_close",
    "stop_on_signals",
    "url_of",
]

#: Connections that wait to be accepted.
BACKLOG = 1024
#: Descriptors that are left to the rest of the process: stores, logs, clients of its own.
_RESERVED = 128
#: What a host without an address family answers.
_NO_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
#: What accept() raises when the process or the system can have no more connections.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
#: The signals that ask a server to stop.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: How much, and for how long, a closing server reads what nobody wants any more.
_LINGER_BYTES, _LINGER_SECONDS = 8 * 1024 * 1024, 2.0
#: The value of SO_LINGER with which closing discards unsent data and resets the connection.
_RESET = struct.pack("ii", 1, 0)


class RunningServer(Protocol):
    """What serves in the background, from its opening to its end.

    Attributes:
        port: the port it listens on.
        url: the URL of its root, as this machine can reach it.
    """

    port: int
    url: str

    def wait(self) -> None:
        """Block until it is being ended, or until a signal asks for that."""
        ...

    def end(self, timeout: float) -> None:
        """End in good order; cut off what lasts longer than ``timeout`` seconds."""
        ...


RunningServerT = TypeVar("RunningServerT", bound=RunningServer)


class Server(Generic[RunningServerT]):
    """Starts and ends what serves. Adapters add what it is made of.

    Args:
        open: called with a host and a port; returns what accepts connections there by then.
    """

    def __init__(self, open: Callable[[str, int], RunningServerT]) -> None:
        self._open = open
        self._lock = threading.RLock()
        self._serving: RunningServerT | None = None

    def listen(self, port: int = 0, host: str = "127.0.0.1") -> Self:
        """Serve in a background thread.

        Args:
            port: 0 takes a free one; see :attr:`port`.
            host: a name or an address, IPv4 or IPv6; ``"0.0.0.0"`` or ``"::"`` for all.

        Returns:
            The server, which accepts connections by now.

        Raises:
            ConfigurationError: a package is not installed that it runs on.
            OSError: the address cannot be had.
            StoreError: a store cannot be opened.
            RuntimeError: the server listens already, or the application refused to start.
            TypeError, ValueError: that is no port, or no host.
        """
        check_address(port, host)
        with self._lock:
            if self._serving is not None:
                raise RuntimeError("the server listens already")
            self._serving = self._open(host, port)
        return self

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._running_server().port

    @property
    def url(self) -> str:
        """The URL of its root, as this machine can reach it."""
        return self._running_server().url

    def serve_forever(self) -> None:
        """Block until SIGTERM, SIGINT or :meth:`close`; then close in good order.

        A second signal does not wait. Signals are heeded only where this is called in the main
        thread.

        Raises:
            RuntimeError: the server does not listen.
        """
        self._running_server().wait()
        self.close()

    def close(self, timeout: float = 10.0) -> None:
        """Accept no more, hand clients off, let steps and answers in flight finish, and close.

        Nothing happens if the server does not listen.

        Args:
            timeout: seconds to wait. Steps still in flight then will run again, and clients
                still connected are cut off.
        """
        with self._lock:
            serving, self._serving = self._serving, None
            if serving is not None:
                serving.end(timeout)

    def __enter__(self) -> Self:
        """Listen on a free port, unless it listens already."""
        return self if self._serving is not None else self.listen()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _running_server(self) -> RunningServerT:
        if self._serving is None:
            raise RuntimeError("the server does not listen; call listen() first")
        return self._serving


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Return the URL of the root of what is served there, as this machine can reach it."""
    name, port = listener.getsockname()[:2]
    host = _WILDCARDS.get(name, name)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def check_address(port: object, host: object) -> None:
    """See that a port and a host can be ones. The system would cut a port down to 16 bits.

    Raises:
        TypeError: one is of another type.
        ValueError: there is no such port.
    """
    if not is_int(port) or not isinstance(host, str):
        raise TypeError(
            f"a server listens at a port and a host, such as (8000, '127.0.0.1'), "
            f"not ({port!r}, {host!r})"
        )
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be 0 to 65535, not {port}")


def bind(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of a host, all with the same port.

    Args:
        host: a name or an address, IPv4 or IPv6; ``"0.0.0.0"`` for all of IPv4, ``"::"`` for all
            of both.
        port: 0 takes a free one.

    Raises:
        OSError: an address cannot be had.
        TypeError, ValueError: that is no port, or no host.
    """
    check_address(port, host)
    if host == "::" and socket.has_dualstack_ipv6():
        return [_listen_on(socket.AF_INET6, (host, port), dualstack=True)]
    bound: list[socket.socket] = []
    missing: OSError | None = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, *_, address in dict.fromkeys(found):
            taken = bound[0].getsockname()[1] if bound else port
            try:
                bound.append(_listen_on(family, (address[0], taken, *address[2:])))
            except OSError as error:
                if error.errno not in _NO_FAMILY:
                    raise
                missing = error
        if missing is not None and not bound:
            raise missing
    except BaseException:
        for each in bound:
            each.close()
        raise
    return bound


def _listen_on(
    family: socket.AddressFamily, address: tuple[Any, ...], *, dualstack: bool = False
) -> socket.socket:
    return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=dualstack)


def check_max_connections(most: int) -> int:
    """Return a number of connections.

    Raises:
        ValueError: it is no whole number above 0.
    """
    if not is_int(most) or most < 1:
        raise ValueError(f"max_connections must be a whole number above 0, not {most!r}")
    return most


def default_max_connections(most: int) -> int:
    """Return for how many clients at a time this process has descriptors, at most ``most``."""
    try:
        import resource
    except ImportError:  # there is no such limit on Windows
        return most
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, max(soft - _RESERVED, soft // 2)))


def is_out_of_descriptors(error: OSError) -> bool:
    """Tell whether no connection can be accepted at present, whoever asks for one.

    A server that tries again at once would keep a processor busy, for the client still waits.
    """
    return error.errno in _EXHAUSTED


@contextmanager
def stop_on_signals(leave: Callable[[], object], wake: int = -1) -> Iterator[None]:
    """Call ``leave`` on SIGTERM and SIGINT; restore the former handlers afterwards.

    Outside the main thread it does nothing, because no handler can be set there.

    Args:
        leave: called in the main thread, between two of its instructions.
        wake: a file descriptor to which each signal writes a byte. Python runs handlers between two
            instructions of the main thread. So a signal right before a wait does not end the wait,
            unless the thread waits for this descriptor too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {each: signal.signal(each, lambda *_: leave()) for each in _SIGNALS}
    former_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False) if wake >= 0 else None
    try:
        yield
    finally:
        if former_wake is not None:
            signal.set_wakeup_fd(former_wake)
        for each, handler in former.items():
            signal.signal(each, handler)


def lingering_close(connection: socket.socket) -> None:
    """Send no more, and read and discard data for a while.

    Closing a connection with unread data resets it, and the client may lose the response. Returns
    when the client closes, after 2 seconds, or after 8 MiB.
    """
    deadline, most = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while most > 0 and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            chunk = connection.recv(65536)
            if not chunk:
                return
            most -= len(chunk)


def reset_on_close(connection: socket.socket) -> None:
    """Reset the connection when it is closed, so the client notices that data is missing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def is_reset_on_close(connection: socket.socket) -> bool:
    """Return whether :func:`reset_on_close` was called."""
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET))
    return option == _RESET
