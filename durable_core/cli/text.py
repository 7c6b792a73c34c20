"""Runs and their steps as text for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from durable_core.api.run_info import AttemptInfo, RunInfo, StepInfo
from durable_core.http.headers import trace_id_of

__all__ = ["details", "history", "show_time", "table"]

_WIDTH = 80


def table(runs: Sequence[RunInfo]) -> str:
    """Return one line for each run, under a heading."""
    rows = [(run.id, run.status, show_time(run.started), run.name) for run in runs]
    return _columns(("RUN", "STATUS", "STARTED (UTC)", "NAME"), rows)


def details(run: RunInfo) -> str:
    """Return everything about one run but the results of its steps."""
    facts = (
        ("run", run.id),
        ("name", run.name),
        ("function", run.function_id),
        *(("label", f"{name}={value}") for name, value in run.labels.items()),
        *((name, value) for name, value in _optional_facts(run) if value is not None),
        ("status", run.status),
        ("attempts", str(run.attempts)),
        ("crashes", str(run.crashes)),
        ("started", show_time(run.started)),
        ("due", show_time(run.due)),
        ("ended", show_time(run.ended)),
        ("error", run.error or "-"),
    )
    head = "".join(f"{name:<10} {_printable(value)}\n" for name, value in facts)
    rows = [_step_row(step) for step in run.steps]
    heading = ("KIND", "STATUS", "TRIES", "WHEN (UTC)", "STEP")
    return f"{head}\n{_columns(heading, rows, notes=_notes(run))}" if rows else head


def history(attempts: Sequence[AttemptInfo]) -> str:
    """Return one line for each attempt, under a heading, and one more for each error."""
    rows = [_attempt_row(each) for each in attempts]
    notes = [each.error for each in attempts]
    return _columns(("ENDED (UTC)", "TOOK", "STATUS", "TRY", "STEP"), rows, notes=notes)


def _optional_facts(run: RunInfo) -> tuple[tuple[str, str | None], ...]:
    """Return what is shown of a run only if it is there."""
    return (
        ("key", run.key),
        ("version", f"{run.version} (its code only)" if run.parked else run.version),
        ("parent", run.parent),
        ("trace", trace_id_of(run.traceparent)),
        ("reason", run.cancel_reason),
        ("retried", str(run.retried) if run.retried else None),
        ("completion", run.completion and f"{run.completion} ({run.completion_run})"),
        ("deadline", None if run.deadline is None else show_time(run.deadline)),
    )


def _step_row(step: StepInfo) -> tuple[str, ...]:
    name = f"{step.name} (for {step.event})" if step.event else step.name
    return (step.kind, step.status, str(step.attempts), show_time(step.ended or step.due), name)


def _attempt_row(attempt: AttemptInfo) -> tuple[str, ...]:
    step = attempt.step or "(handler)"
    return (show_time(attempt.ended), _took(attempt), attempt.status, str(attempt.number), step)


def _notes(run: RunInfo) -> list[str | None]:
    """Return what is shown below each step: its child run and its error, if it has them."""
    notes = []
    for step in run.steps:
        child = None if step.child is None else f"run {step.child}"
        notes.append(": ".join(filter(None, (child, step.error))) or None)
    return notes


def _took(attempt: AttemptInfo) -> str:
    if attempt.started is None:
        return "-"
    return f"{(attempt.ended - attempt.started).total_seconds():.3f}s"


def show_time(time: datetime | None) -> str:
    """Return a time without its zone, which is UTC; ``-`` for none."""
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M:%S")


def _printable(text: str) -> str:
    """Return the text as one line without control characters: a terminal would obey them."""
    return "".join(char if char.isprintable() else " " for char in text)


def _short(text: str, width: int) -> str:
    line = _printable(text[: width + 1])
    return line if len(text) <= width else f"{line[: max(0, width - 3)]}..."


def _columns(
    heading: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    notes: Sequence[str | None] = (),
) -> str:
    """Return lines of at most 80 characters; the last column has what the others leave.

    Args:
        heading: the names of the columns.
        rows: their cells.
        notes: what is shown below each row, if anything is.
    """
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)][:-1]
    rest = _WIDTH - sum(widths) - 2 * len(widths)
    lines = []
    for index, (*cells, last) in enumerate((heading, *rows)):
        shown = [
            _short(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True)
        ]
        lines.append("  ".join([*shown, _short(last, rest)]).rstrip())
        if 0 < index <= len(notes) and (note := notes[index - 1]):
            lines.append(f"    {_short(note, _WIDTH - 4)}")
    return "".join(f"{line}\n" for line in lines)
