"""The life of a run as a page for people: ``python docs/_generate/run_states.py`` prints it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from enum import Enum

from durable_core.machine.table import TRANSITIONS, Trigger
from durable_core.model.run import Phase

__all__ = ["meanings", "mermaid", "page"]

_PAGE = """\
# The states of a run

<!-- Generated from durable_core/machine/table.py by `python3 dev.py docs`. Do not edit. -->

A run is in one *phase* at a time. What happens to it is a *cue*, and what is not in the table below
cannot happen. `durable.runs` shows a run that has not ended as `running` while a process executes
it, as `queued` in that phase, and otherwise as `suspended`.

```mermaid
{diagram}
```

## Phases

| phase | meaning |
| --- | --- |
{phases}

A phase in which a run has ended is never left.

## Cues

| cue | meaning |
| --- | --- |
{cues}

## Transitions

| in phase | on | goes to |
| --- | --- | --- |
{transitions}
"""

_MEMBER = re.compile(r"((?:^ +#: .*\n)+)^ +(\w+) = ", re.MULTILINE)


def page() -> str:
    """Return the whole page, in Markdown."""
    transitions = ((before, cue, after) for (before, cue), after in TRANSITIONS.items())
    return _PAGE.format(
        diagram=mermaid(TRANSITIONS),
        phases=_rows((f"`{phase.value}`", text) for phase, text in meanings(Phase).items()),
        cues=_rows((f"`{cue.value}`", text) for cue, text in meanings(Trigger).items()),
        transitions=_rows(tuple(f"`{each.value}`" for each in row) for row in transitions),
    )


def mermaid(transitions: Mapping[tuple[Phase, Trigger], Phase]) -> str:
    """Return a state diagram; cues that lead from one phase to the same next one share an arrow."""
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (before, cue), after in transitions.items():
        arrows.setdefault((before, after), []).append(cue.value)
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.SYNC.value}"]
    lines += [
        f"    {before.value} --> {after.value}: {', '.join(cues)}"
        for (before, after), cues in arrows.items()
    ]
    lines += [f"    {phase.value} --> [*]" for phase in Phase if phase.ended]
    return "\n".join(lines)


def meanings(enum: type[Enum]) -> dict[Enum, str]:
    """Return what the ``#:`` comments above the members of an enumeration say, in their order."""
    found = {
        name: " ".join(line.strip().removeprefix("#:").strip() for line in comment.splitlines())
        for comment, name in _MEMBER.findall(inspect.getsource(enum))
    }
    return {member: found[member.name] for member in enum}


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    print(page(), end="")
