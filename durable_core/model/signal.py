"""Signals: messages to the one run that waits for a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from durable_core.model.event import check_text

__all__ = ["Signal", "SignalWait"]

DataT_co = TypeVar("DataT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Signal(Generic[DataT_co]):
    """What ended the wait of a run for a signal.

    Args:
        name: of the signal; 1 to 255 characters.
        data: what its sender sent with it, as JSON values; or an object of a type.

    Raises:
        TypeError: the name is no str.
        ValueError: it is empty, too long, or has lone surrogates.
    """

    name: str
    data: DataT_co

    def __post_init__(self) -> None:
        check_text("signal name", self.name)


@dataclass(frozen=True, slots=True)
class SignalWait:
    """What ``step.wait_for_signal`` waits for.

    Attributes:
        name: of the signal.
        timeout: milliseconds.
        replaces: take the place of a run that waits for the name; else that is an error.
    """

    name: str
    timeout: int
    replaces: bool = False
