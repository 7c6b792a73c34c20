"""Random programs of steps: what the handlers of the soak do, and what must be true of it.

A program is a tree. The client that asks for a run sends its program in the request, so every
process that executes the run reads the same one. Each node has a *path*, such as ``"p-0-2"``, which
is also the id of its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

__all__ = [
    "Branches",
    "Call",
    "Nap",
    "Own",
    "Program",
    "Send",
    "Sequence",
    "Wait",
    "Work",
    "dump",
    "leaves",
    "load",
    "predecessors",
    "random_program",
]

#: More failures than the endpoint has attempts.
ALWAYS = 99


@dataclass(frozen=True, slots=True)
class Work:
    """A step with a function that takes ``ms`` milliseconds.

    It fails the first ``failures`` times that a process calls it, and pushes ``chunks`` chunks.
    """

    ms: int
    failures: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Nap:
    """A durable sleep of ``ms`` milliseconds."""

    ms: int


@dataclass(frozen=True, slots=True)
class Own:
    """Code of the handler's own between the steps, which takes ``ms`` milliseconds."""

    ms: int


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait for an event. The client sends it if ``answered``; otherwise the wait times out."""

    answered: bool


@dataclass(frozen=True, slots=True)
class Send:
    """A step that sends an event."""


@dataclass(frozen=True, slots=True)
class Call:
    """A child run, which has one step of ``ms`` milliseconds."""

    ms: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """One part after the other."""

    parts: tuple[Program, ...]


@dataclass(frozen=True, slots=True)
class Branches:
    """Parts side by side; in a ``def`` handler one after the other."""

    parts: tuple[Program, ...]


Program: TypeAlias = Work | Nap | Own | Wait | Send | Call | Sequence | Branches

_LEAVES: Mapping[str, type[Work | Nap | Own | Wait | Send | Call]] = {
    "work": Work,
    "nap": Nap,
    "own": Own,
    "wait": Wait,
    "send": Send,
    "call": Call,
}


def random_program(dice: Random) -> Program:
    """Return a program of 2 to 7 parts, some of which have parts themselves."""
    return Sequence(tuple(_part(dice, 2) for _ in range(dice.randint(2, 7))))


def _part(dice: Random, depth: int) -> Program:
    if depth and dice.random() < 0.15:
        parts = tuple(_part(dice, depth - 1) for _ in range(dice.randint(2, 3)))
        return Branches(parts) if dice.random() < 0.7 else Sequence(parts)
    kind = dice.choices(("work", "nap", "own", "wait", "send", "call"), (56, 8, 17, 8, 6, 5))[0]
    match kind:
        case "nap":
            return Nap(dice.choice((1, 50, 300, 900)))
        case "own":
            return Own(dice.choice((1, 10, 40)))
        case "wait":
            return Wait(dice.random() < 0.7)
        case "send":
            return Send()
        case "call":
            return Call(dice.choice((0, 30, 300)))
    failures = dice.choices((0, 1, 2, ALWAYS), (85, 8, 5, 2))[0]
    return Work(dice.choice((0, 5, 30, 120)), failures, dice.choice((0, 0, 1, 4)))


def dump(program: Program) -> list[Any]:
    """Return the program as JSON."""
    match program:
        case Sequence(parts):
            return ["sequence", *map(dump, parts)]
        case Branches(parts):
            return ["branches", *map(dump, parts)]
    [name] = [name for name, leaf in _LEAVES.items() if isinstance(program, leaf)]
    return [name, *(getattr(program, field) for field in program.__slots__)]


def load(data: list[Any]) -> Program:
    """Return the program that :func:`dump` made this of."""
    name, *rest = data
    if name == "sequence":
        return Sequence(tuple(map(load, rest)))
    if name == "branches":
        return Branches(tuple(map(load, rest)))
    return _LEAVES[name](*rest)


def leaves(program: Program, path: str = "p") -> Iterator[tuple[str, Program]]:
    """Yield path and node of each leaf, in the order of the program."""
    if isinstance(program, Sequence | Branches):
        for n, part in enumerate(program.parts):
            yield from leaves(part, f"{path}-{n}")
    else:
        yield path, program


def predecessors(program: Program, *, sequential: bool) -> dict[str, frozenset[str]]:
    """Return, for each leaf, the leaves that have ended before it begins.

    Args:
        program: the program.
        sequential: branches run one after the other, as in a ``def`` handler.
    """
    found: dict[str, frozenset[str]] = {}

    def visit(node: Program, path: str, before: frozenset[str]) -> frozenset[str]:
        """Return what has ended after this node."""
        if not isinstance(node, Sequence | Branches):
            found[path] = before
            return before | {path}
        in_order = sequential or isinstance(node, Sequence)
        after = before
        for n, part in enumerate(node.parts):
            after |= visit(part, f"{path}-{n}", after if in_order else before)
        return after

    visit(program, "p", frozenset())
    return found
