"""The runs of agents within a run of an endpoint, told apart in the same way by each replay."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from weakref import WeakKeyDictionary

from pydantic_ai.tools import RunContext

from durable_core import Durable, run
from durable_core.adapters import current_execution

__all__ = ["agent_suffix", "in_handler", "next_agent_run", "step_id"]

#: Ids of steps have at most 255 characters; this leaves room for a number.
_LONGEST_NAME = 240
#: How often each execution of a handler has asked for each name; a replay counts again.
_COUNTS: WeakKeyDictionary[object, Counter[str]] = WeakKeyDictionary()


def in_handler() -> bool:
    """Tell whether the handler of a run calls this, and not the function of one of its steps."""
    known = Durable.current_run()
    return known is not None and known.step is None


def next_agent_run() -> str:
    """Return the id of the next agent run, which is the same in each replay of the handler."""
    return f"{run.id}:{_count('')}"


def step_id(name: str, values: tuple[object, ...]) -> str:
    """Return the id of a step, the same in each replay.

    Agents may run side by side, and so may the calls of a tool, so the number of the agent run and
    the id of the call are in it. Operations that have both in common come one after the other,
    though each from a task of its own; they are numbered.

    Args:
        name: of the operation.
        values: what it is made of; the context of its agent run is among them.
    """
    context = next((each for each in values if isinstance(each, RunContext)), None)
    if context is not None:
        name += agent_suffix(context.run_id)
        name += f":{context.tool_call_id}" if context.tool_call_id else ""
    name = _shortened(name)
    number = _count(name)
    return f"{name}:{number}" if number else name


def agent_suffix(run_id: str | None) -> str:
    """Return what is in the ids of steps of an agent run; nothing for the first of a run."""
    number = (run_id or "").removeprefix(f"{run.id}:")
    return "" if number in ("", "0") else f"@{number}"


def _shortened(name: str) -> str:
    """Return a name that fits an id of a step: those that models give to calls may be long."""
    if len(name) <= _LONGEST_NAME:
        return name
    digest = sha256(name.encode("utf-8", "replace")).hexdigest()
    return f"{name[: _LONGEST_NAME - len(digest) - 1]}:{digest}"


def _count(name: str) -> int:
    """Return how often the execution of the current handler has asked for a name before."""
    counts = _COUNTS.setdefault(current_execution(), Counter())
    counts[name] += 1
    return counts[name] - 1
