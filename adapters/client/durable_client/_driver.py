"""What the drivers of a call, in a thread and in a task, have in common."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, Protocol, TypeAlias, TypeVar

from durable_client._follow import (
    Close,
    Command,
    Commands,
    Deliver,
    Fail,
    Finish,
    Open,
    Read,
    StreamClient,
)

__all__ = ["OpenConnections", "Report", "follow"]

#: What a connection reports to the machine.
Report: TypeAlias = Callable[[StreamClient], Commands]


class _Connection(Protocol):
    """One request, and its response."""

    @property
    def is_alive(self) -> bool:
        """Whether its thread or task has not ended."""
        ...

    def read(self) -> None:
        """Allow that the body is read."""
        ...

    def close(self) -> None:
        """Close it, or stop opening it, without waiting for that."""
        ...


C = TypeVar("C", bound=_Connection)


class OpenConnections(Generic[C]):
    """The connections of a call, by number.

    Args:
        begin: opens one.
    """

    def __init__(self, begin: Callable[[Open], C]) -> None:
        self._begin = begin
        self._open: dict[int, C] = {}
        self._closed: list[C] = []

    def open(self, command: Open) -> None:
        """Open a connection; keep no trace of ended ones: a stream may need any number of them."""
        self._open = {number: each for number, each in self._open.items() if each.is_alive}
        self._closed = [each for each in self._closed if each.is_alive]
        self._open[command.number] = self._begin(command)

    def read(self, number: int) -> None:
        """Let the body of a connection be read."""
        self._open[number].read()

    def close(self, number: int) -> None:
        """Close a connection."""
        connection = self._open.pop(number)
        connection.close()
        self._closed.append(connection)

    def close_all(self) -> list[C]:
        """Close those that are open; return all closed ones that may not have ended yet."""
        for number in list(self._open):
            self.close(number)
        return self._closed


def follow(
    machine: StreamClient, connections: OpenConnections[C]
) -> Generator[Deliver | None, Report | None, Finish]:
    """Do what the machine says until it has the response.

    It yields events that the driver is to deliver, and None where the driver is to wait for the
    next report of a connection and send it; or None, where there is none.

    Raises:
        Exception: what the machine fails with.
    """
    todo: deque[Command] = deque(machine.start())
    while True:
        while todo:
            match command := todo.popleft():
                case Finish():
                    return command
                case Fail(error=error):
                    raise error
                case Deliver():
                    yield command
                case Open():
                    connections.open(command)
                case Read(number=number):
                    connections.read(number)
                case Close(number=number):
                    connections.close(number)
        report = yield None
        if report is not None:
            todo += report(machine)
