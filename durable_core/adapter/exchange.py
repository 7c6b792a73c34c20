"""``Exchange``: one request and the way to answer it, as an adapter gives them to the kit."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self

__all__ = [
    "LISTEN_AFTER",
    "AsyncExchange",
    "ClientDisconnectedError",
    "DisconnectWatcher",
    "Exchange",
    "Fields",
]

#: Header fields in order, repeated ones apart.
Fields = Sequence[tuple[str, str]]

_NO_PARAMS: Mapping[str, str] = MappingProxyType({})


class ClientDisconnectedError(ConnectionError):
    """The client has closed the connection, or does not take what is sent."""


class _Head:
    """What both kinds of exchange know about the request. Subclasses set what they know.

    Attributes:
        method: as on the wire.
        target: as on the request line: a path with its query, percent-encoded, or a whole URL.
            Each octet is one character (Latin-1), as in the fields.
        fields: the header fields, repeated ones apart where the server keeps them so.
        scheme: ``"http"`` or ``"https"``.
        authority: host and port of the server, for requests that name none.
        client: the address of the client, such as ``"127.0.0.1"``; "" where it is not known.
        root_path: the decoded prefix under which the application is mounted; "" for none.
        path_params: what a framework's router found in the path.
        route: the template that a framework's router found the path by; None if unknown.
        max_wait: seconds for which the server lets a client wait; 2 where one waiting client
            keeps others from being served.
        chunked: whether ``write`` passes bytes to the connection as they are. The kit then frames
            bodies of unknown length itself, in the chunked transfer coding.
        refused: set by the kit, before ``begin``, when the request is refused. The connection must
            not be used for another one, whose beginning cannot be told for sure.
    """

    method: str = "GET"
    target: str = "/"
    fields: Fields = ()
    scheme: str = "http"
    authority: str = "localhost"
    client: str = ""
    root_path: str = ""
    path_params: Mapping[str, str] = _NO_PARAMS
    route: str | None = None
    max_wait: float = 25.0
    chunked: bool = False
    refused: bool = False


class Exchange(_Head, ABC):
    """One request on a server with threads. Every method may block.

    What the methods raise: ClientDisconnectedError, or any ``OSError``, when the client is gone.
    """

    def send_continue(self) -> None:
        """Send ``100 Continue``. Nothing by default: most servers do it when the body is read."""

    @abstractmethod
    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes of the request's body, without any transfer coding.

        Returns:
            Nothing at the end of the body, and where there is none. It is never asked for more than
            was announced.

        Raises:
            TimeoutError: the client takes too long (answered with 408).
            HTTPError: the body is malformed.
        """

    def is_gone(self) -> bool:
        """Tell whether the client is gone, without blocking. False where that is not known."""
        return False

    @abstractmethod
    def begin(self, status: int, fields: Fields) -> None:
        """Send the head of the response. The fields are complete but for ``Date`` and the like."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send a part of the body, which is never empty."""

    def end(self) -> None:
        """The response is whole. Nothing by default."""

    @abstractmethod
    def abort(self, error: BaseException) -> None:
        """End the connection so that the client does not take the response for a whole one.

        Args:
            error: why: a ClientDisconnectedError if the client is gone, else what broke the
                response. It may be raised again where the server cuts connections for that.
        """


class AsyncExchange(_Head, ABC):
    """One request on an event loop. The methods are those of :class:`Exchange`, but for one."""

    async def send_continue(self) -> None:
        """See :meth:`Exchange.send_continue`."""

    @abstractmethod
    async def read(self, size: int) -> bytes:
        """See :meth:`Exchange.read`."""

    @abstractmethod
    async def is_gone(self) -> bool:
        """Wait until the client is gone, and return True; False where that is never known.

        It is called once, when the whole request has been read, and cancelled in the end. It must
        not raise.
        """

    @abstractmethod
    async def begin(self, status: int, fields: Fields) -> None:
        """See :meth:`Exchange.begin`."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """See :meth:`Exchange.write`. It waits while the client is behind."""

    def is_ready(self) -> bool:
        """Tell whether :meth:`write_now` may be called: the client has taken what was sent before.

        False by default, and where that is not known. It is not asked where ``chunked`` is set.
        """
        return False

    def write_now(self, data: bytes) -> None:
        """Send a part of the body without waiting, as soon as it is made.

        It is called in any task of the loop, between two calls of :meth:`write`. A connection that
        is gone is no error here: :meth:`is_gone`, or the next write, says so.
        """
        raise NotImplementedError

    async def end(self) -> None:
        """See :meth:`Exchange.end`."""

    @abstractmethod
    async def abort(self, error: BaseException) -> None:
        """See :meth:`Exchange.abort`."""


# --- disconnects ----------------------------------------------------------------------------------
#
# Clients that go away, and noticing that on an event loop while an answer is made or sent.

#: Nobody is listened to before so many seconds: most answers are sent by then, and servers keep
#: the news until somebody asks.
LISTEN_AFTER = 0.02


class DisconnectWatcher:
    """``async with`` it: when the client goes away, the block is cancelled.

    The task that enters it is the one that is cancelled, and leaves it with
    ClientDisconnectedError. A cancellation from elsewhere passes.

    Args:
        is_gone: waits until the client is gone, and returns True; False where that cannot be told.
            It must not raise.
    """

    def __init__(self, is_gone: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        self._is_gone = is_gone
        self._timer: asyncio.TimerHandle | None = None
        self._listener: asyncio.Task[None] | None = None
        self._gone = False

    async def __aenter__(self) -> Self:
        """Take this task for the one to cancel. Nobody is watched before :meth:`start`."""
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the watch, leaving nothing behind.

        Raises:
            ClientDisconnectedError: the block was cancelled because the client is gone.
        """
        timer, listener, task = self._timer, self._listener, self._task
        # The error of a cancelled task refers to its frame: a cycle would keep the memory.
        self._timer = self._listener = self._task = None
        if timer is not None:
            timer.cancel()
        if listener is not None:
            listener.cancel()
            await asyncio.wait((listener,))
        if self._gone and task is not None:
            others = task.uncancel()
            if isinstance(error, asyncio.CancelledError) and not others:
                raise ClientDisconnectedError("the client has closed the connection") from None

    def start(self) -> None:
        """Begin to watch, after a moment that most answers do not take."""
        self._timer = asyncio.get_running_loop().call_later(LISTEN_AFTER, self.listen)

    def listen(self) -> None:
        """Listen from now on, as a stream must: it could outrun the server in no time."""
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        if await self._is_gone() and self._task is not None:
            self._gone = True
            self._task.cancel()
