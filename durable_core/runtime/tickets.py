"""Receipts for queued writes, and the ways to wait for one: a blocked thread, or a task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from durable_core.ports import Write

__all__ = ["Blocked", "Ticket", "wake"]

T = TypeVar("T")


class Ticket(Generic[T]):
    """The receipt for one queued write.

    Attributes:
        write: what is to be committed.
        done: it is durable, or has failed.
        answer: the store's; None while there is none, or if the write failed.
        error: why it failed.
        threads, tasks: who waits for it.
    """

    __slots__ = ("answer", "done", "error", "tasks", "threads", "write")

    def __init__(self, write: Write[T]) -> None:
        self.write: Write[T] = write
        self.done = False
        self.error: BaseException | None = None
        self.threads: list[Blocked] = []
        self.tasks: list[asyncio.Future[None]] = []
        self.answer: T | None = None

    @classmethod
    def failed(cls, write: Write[T], error: BaseException) -> Ticket[T]:
        """Return the receipt of a write that is not even tried."""
        ticket = cls(write)
        ticket.error = error
        ticket.done = True
        return ticket

    def take(self, answer: Any) -> None:
        """Note the store's answer, or the error that it gave instead of one."""
        if isinstance(answer, BaseException):
            self.error = answer
        else:
            self.answer = answer

    def result(self) -> T:
        """Return the answer, or raise the error. Call it once ``done``."""
        if self.error is not None:
            raise self.error
        answer: Any = self.answer
        result: T = answer
        return result


class Blocked:
    """A thread that waits for a ticket; it is woken when the ticket is done, or to lead."""

    __slots__ = ("lock", "ticket")

    def __init__(self, ticket: Ticket[Any]) -> None:
        self.ticket = ticket
        self.lock = threading.Lock()
        self.lock.acquire()

    def wake(self) -> None:
        """Let the thread look again. Harmless if it has been woken already."""
        try:
            self.lock.release()
        except RuntimeError:
            pass


def wake(tickets: Iterable[Ticket[Any]]) -> None:
    """Wake all who wait for these tickets; an event loop is called once for all of its tasks."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for ticket in tickets:
        for blocked in ticket.threads:
            blocked.wake()
        for future in ticket.tasks:
            by_loop.setdefault(future.get_loop(), []).append(future)
    if not by_loop:
        return
    here = asyncio._get_running_loop()
    for loop, futures in by_loop.items():
        if loop is here:
            _finish(futures)
            continue
        try:
            loop.call_soon_threadsafe(_finish, futures)
        except RuntimeError:
            pass  # the loop is closed, and the tasks with it


def _finish(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
