"""The ASGI messages of a response, put together to a response of the core."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

from durable_asgi import Message
from durable_core import Response
from durable_core.adapters import is_prepared

__all__ = ["Capture", "Outcome"]

T_contra = TypeVar("T_contra", contravariant=True)


class Outcome(Protocol[T_contra]):
    """The part of a future that is needed by who fills it, be it asyncio's or one of threads."""

    def done(self) -> bool:
        """Tell whether it has been filled."""
        ...

    def set_result(self, result: T_contra, /) -> None:
        """Fill it."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Fill it with an error."""
        ...


class Capture:
    """Takes what an application sends in response. Everything happens on its event loop.

    Args:
        outcome: gets the response: at its end, or at its first chunk if there will be more. None if
            nobody waits for it yet.

    Attributes:
        response: that response; None before.
        messages: those of a response that was whole at once.
        is_streamed: it is made in parts.
        is_complete: the last message is there.
        is_prepared: the messages can be sent as they are: they say what the server is to send, and
            no more.
        has_ended: so has the execution.
    """

    response: Response | None = None
    is_streamed = is_complete = is_prepared = has_ended = False
    _body: _Chunks | None = None
    _end: asyncio.Future[None] | None = None

    def __init__(self, outcome: Outcome[Response] | None = None) -> None:
        self.messages: list[Message] = []
        self._outcome = outcome

    def attach(self, outcome: Outcome[Response]) -> None:
        """Give the response to one who waits for it from now on."""
        self._outcome = outcome
        if self.response is not None:
            outcome.set_result(self.response)

    async def send(self, message: Message) -> None:
        """Take a message. It returns from the last one when the execution has ended.

        Raises:
            OSError: nobody reads the body any more.
        """
        await self.take(message)
        if self.is_complete:
            await self.wait_for_end()

    async def take(self, message: Message) -> None:
        """Take a message. A part of a streamed body is taken once its reader asks for the next one.

        What comes after the end of the response is ignored.

        Raises:
            OSError: nobody reads the body any more.
            ValueError: the body begins before the head.
        """
        if self.is_complete and self._is_settled():
            return
        kind = message["type"]
        if kind == "http.response.start":
            headers = message.get("headers", ())
            if type(headers) is not list:  # an iterator can be read once
                message = {**message, "headers": list(headers)}
            self.messages = [message]  # of two heads the second one counts
        elif kind == "http.response.body":
            if not self.messages:
                raise ValueError("the application sent a body before the head of its response")
            self.is_complete = not message.get("more_body", False)
            if self._body is None and self.is_complete:
                self.messages.append(message)
                self._resolve(message.get("body", b""))
            else:
                await self._take_part(message.get("body", b""))

    async def _take_part(self, data: bytes) -> None:
        if self._body is None:
            self.is_streamed, self._body = True, _Chunks()
            self._resolve(self._body)
        if data or not self.is_complete:
            await self._body.put(data)
        if self.is_complete:
            self._body.end()

    def _resolve(self, body: bytes | AsyncIterator[bytes]) -> None:
        if not self._is_settled():
            head = self.messages[0]
            fields = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in head["headers"]
            ]
            self.response = response = Response(status=head["status"], headers=fields, body=body)
            self.is_prepared = (
                response.body is body
                and isinstance(body, bytes)
                and not head.get("trailers", False)
                and tuple(fields) == response.headers.raw  # which has no spaces around a value
                and is_prepared(response.status, fields, len(body))
            )
            if self._outcome is not None:
                self._outcome.set_result(response)

    def _is_settled(self) -> bool:
        """Tell whether the response is there, or nobody waits for it any more."""
        if self._outcome is None:
            return self.response is not None
        return self._outcome.done()

    def application_ended(self, error: BaseException | None) -> bool:
        """Note that nothing more will be sent; tell whether the response had been whole or begun.

        Args:
            error: what the application raised.
        """
        if error is not None and self._body is not None and self._body.is_closed:
            traceback.clear_frames(error.__traceback__)  # which may hold an unfinished generator
            return False
        if self._is_settled():
            if self._body is not None:
                self._body.fail(error or RuntimeError("the application stopped in mid-response"))
            return True
        assert self._outcome is not None
        self._outcome.set_exception(error or RuntimeError("the application sent no response"))
        return False

    async def wait_for_end(self) -> None:
        """Wait until the execution has ended."""
        if not self.has_ended:
            if self._end is None:
                self._end = asyncio.get_running_loop().create_future()
            await self._end

    def execution_ended(self) -> None:
        """Let the application go on after its response."""
        self.has_ended = True
        if self._end is not None and not self._end.done():
            self._end.set_result(None)


class _Chunks(AsyncIterator[bytes]):
    """A streamed body, handed from the application that sends it to its reader.

    The application goes on when the reader asks for the next chunk: it has sent this one then. The
    run of a ``def`` handler may read on another event loop.

    It is no generator: to close one that has not begun would tell the application nothing.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._asked = asyncio.Event()
        self._ended = False
        self.is_closed = False

    async def put(self, data: bytes) -> None:
        """Give the reader a chunk, and wait until it asks for the next one.

        Raises:
            OSError: nobody reads any more.
        """
        self._asked.clear()
        if not self.is_closed:
            self._queue.put_nowait(data)
            await self._asked.wait()
        if self.is_closed:
            raise OSError("the response is not read any more")

    def end(self) -> None:
        """Note that this was all."""
        self._ended = True
        self._queue.put_nowait(None)

    def fail(self, error: BaseException) -> None:
        """Break the body off, unless it has ended."""
        if not self._ended:
            self._queue.put_nowait(error)

    async def __anext__(self) -> bytes:
        if self.is_closed:
            raise StopAsyncIteration
        try:
            chunk = await self._next_anywhere()
        except BaseException:
            await self.aclose()
            raise
        if chunk is None:
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Tell the application that nobody reads any more."""
        self.is_closed = True
        if asyncio.get_running_loop() is self._loop:
            self._asked.set()
        else:
            self._loop.call_soon_threadsafe(self._asked.set)

    async def _next_anywhere(self) -> bytes | None:
        if asyncio.get_running_loop() is self._loop:
            return await self._next()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._next(), self._loop))

    async def _next(self) -> bytes | None:
        if self._queue.empty():
            self._asked.set()
        chunk = await self._queue.get()
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk
