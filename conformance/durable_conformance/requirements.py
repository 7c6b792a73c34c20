"""The numbered requirements, read from ``requirements.md`` beside this file.

A group is a heading ``## <title> (<kinds>)``, as in ``(store)`` or ``(server, engine)``; a
requirement is a heading ``### <id> <title>``, followed by its own kinds if they differ from those
of the group. The lines that begin with ``Cases:`` name its cases in backquotes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from durable_conformance.contract import Kind

__all__ = ["Requirement", "load_requirements", "parse_requirements"]

_KINDS = r" \(((?:server|engine|store)(?:, engine)?)\)"
_GROUP = re.compile(rf"## (.+){_KINDS}")
_TITLE = re.compile(rf"### ([A-Z]+\d+) (.+?)(?:{_KINDS})?")
_CASE = re.compile(r"`(test_\w+::test_\w+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One thing that a subject must do.

    Attributes:
        id: such as ``"Q3"``; its letters are the group's.
        title: a sentence.
        kinds: the kinds of subject that it applies to.
        group: the title of its group.
        cases: ids of the cases that test it, without variants.
    """

    id: str
    title: str
    kinds: frozenset[Kind]
    group: str
    cases: tuple[str, ...]


@cache
def load_requirements() -> tuple[Requirement, ...]:
    """Return all requirements of this version of the suite, in order."""
    return parse_requirements(Path(__file__).with_name("requirements.md").read_text("utf-8"))


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """Return the requirements of a text, in order.

    Raises:
        ValueError: a requirement outside a group, without cases, or with another's id.
    """
    found: dict[str, Requirement] = {}
    group: re.Match[str] | None = None
    for block in re.split(r"^(?=##)", text, flags=re.MULTILINE):
        heading = block.partition("\n")[0]
        title = _TITLE.fullmatch(heading)
        if title is None:
            group = _GROUP.fullmatch(heading) or group
            continue
        if group is None or title[1] in found:
            raise ValueError(f"requirement {title[1]} is in no group, or there twice")
        found[title[1]] = Requirement(
            id=title[1],
            title=title[2],
            kinds=frozenset(Kind[kind.upper()] for kind in (title[3] or group[2]).split(", ")),
            group=group[1],
            cases=_cases_of(block),
        )
        if not found[title[1]].cases:
            raise ValueError(f"requirement {title[1]} names no case")
    return tuple(found.values())


def _cases_of(block: str) -> tuple[str, ...]:
    _, _, cases = block.partition("\nCases:")
    return tuple(_CASE.findall(cases))
