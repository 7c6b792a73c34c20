"""How the command line shows runs: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from durable_core.model.ops import Memo, Pending
from durable_core.ports import RunRecord

__all__ = ["as_json", "details", "table"]

_LONGEST = 60


def table(records: Sequence[RunRecord]) -> str:
    """Return one line for each run, under a heading."""
    rows = [
        (
            record.run.id,
            record.run.phase.value,
            _time(record.run.created_at),
            _time(record.due_at),
            _time(record.ended_at),
            record.run.function_id,
        )
        for record in records
    ]
    return _columns(("RUN", "PHASE", "CREATED (UTC)", "DUE", "ENDED", "FUNCTION"), rows)


def details(record: RunRecord) -> str:
    """Return everything about one run but the results of its steps."""
    run = record.run
    facts = (
        ("run", run.id),
        ("function", run.function_id),
        ("endpoint", run.endpoint_key),
        ("phase", run.phase.value),
        ("created", _time(run.created_at)),
        ("due", _time(record.due_at)),
        ("ended", _time(record.ended_at)),
        ("owner", record.owner or "-"),
        ("failures", f"{run.failures} of the handler, {run.retries} retries allowed"),
        ("takeovers", str(run.takeovers)),
    )
    head = "".join(f"{name:<10} {value}\n" for name, value in facts)
    rows = [*map(_memo_row, record.memos), *map(_pending_row, record.pending)]
    steps = _columns(("STEP", "KIND", "STATE", "ATTEMPTS", "WHEN (UTC)", "ERROR"), rows)
    return f"{head}\n{steps}" if rows else head


def as_json(record: RunRecord, *, steps: bool = False) -> dict[str, object]:
    """Return the run as a JSON-ready dict; with ``steps``, what it has done and waits for too."""
    run = record.run
    fields: dict[str, object] = {
        "id": run.id,
        "app": run.app,
        "function_id": run.function_id,
        "endpoint_key": run.endpoint_key,
        "phase": run.phase.value,
        "retries": run.retries,
        "failures": run.failures,
        "takeovers": run.takeovers,
        "owner": record.owner,
        "created_at": run.created_at,
        "due_at": record.due_at,
        "ended_at": record.ended_at,
    }
    if steps:
        fields["steps"] = [_memo_json(memo) for memo in record.memos]
        fields["pending"] = [_pending_json(pending) for pending in record.pending]
    return fields


def _memo_json(memo: Memo) -> dict[str, object]:
    return {
        "id": memo.op.name,
        "kind": memo.op.kind.value,
        "ok": memo.ok,
        "attempts": memo.attempts,
        "ended_at": memo.ended_at,
        "result" if memo.ok else "error": _parsed(memo.value),
    }


def _pending_json(pending: Pending) -> dict[str, object]:
    return {
        "id": pending.op.name,
        "kind": pending.op.kind.value,
        "failures": pending.failures,
        "due_at": pending.due_at,
        "event": pending.event or None,
        "error": _parsed(pending.error) if pending.error else None,
    }


def _memo_row(memo: Memo) -> tuple[str, ...]:
    state, error = ("done", "") if memo.ok else ("failed", _error(memo.value))
    kind, attempts = memo.op.kind.value, str(memo.attempts)
    return (memo.op.name, kind, state, attempts, _time(memo.ended_at), error)


def _pending_row(pending: Pending) -> tuple[str, ...]:
    state = f"waiting for {pending.event}" if pending.event else "waiting"
    kind, attempts = pending.op.kind.value, str(pending.failures)
    error = _error(pending.error) if pending.error else ""
    return (pending.op.name, kind, state, attempts, f"due {_time(pending.due_at)}", error)


def _error(text: str) -> str:
    fields = json.loads(text)
    return _short(f"{fields['name']}: {fields['message']}")


def _parsed(text: str) -> object:
    """Return what the text stands for; a codec of the user's may write what is not JSON."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def _time(ms: int | None) -> str:
    if ms is None:
        return "-"
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _short(text: str) -> str:
    """Return the text as one line of printable characters, cut if it is long."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _columns(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heading, *(tuple(_short(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )
