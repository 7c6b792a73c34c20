"""How the command line shows runs."""

from __future__ import annotations

import json
from dataclasses import replace

from durable_conformance.store_values import memo, pending, run, wait
from durable_core.cli import as_json, details, table
from durable_core.ports import RunRecord

RECORD = RunRecord(
    run=run(),
    owner=None,
    due_at=1_700_000_000_000,
    ended_at=None,
    memos=(
        memo(1, name="reserve", value='{"seat":"12A"}'),
        replace(memo(2, name="charge", value='{"name":"E","message":"no"}'), ok=False),
    ),
    pending=(replace(pending("nap"), error='{"name":"E","message":"no"}'), wait("approval")),
)


def test_table_has_a_line_for_each_run() -> None:
    """The table shows id, phase, times and label, in columns as wide as they must be."""
    assert [
        "RUN  PHASE  CREATED (UTC)        DUE                  ENDED  FUNCTION",
        "r1   sync   1970-01-01 00:00:00  2023-11-14 22:13:20  -      GET /x",
    ] == table([RECORD]).splitlines()


def test_table_of_no_runs_is_the_heading() -> None:
    """Without runs there is a heading all the same."""
    assert ["RUN  PHASE  CREATED (UTC)  DUE  ENDED  FUNCTION"] == table([]).splitlines()


def test_text_of_users_cannot_break_the_table() -> None:
    """Control characters are replaced and long texts cut, so that a run stays one line."""
    record = replace(RECORD, run=replace(run(), function_id="GET /\x1b[2J\n" + "x" * 100))

    [_, line] = table([record]).splitlines()

    assert line.endswith("GET / [2J " + "x" * 47 + "...")


def test_details_show_steps_and_waits() -> None:
    """Each finished and each unfinished op is a line with its state and error."""
    lines = [" ".join(line.split()) for line in details(RECORD).splitlines()]

    assert "function GET /x" in lines
    assert lines[-5:] == [
        "STEP KIND STATE ATTEMPTS WHEN (UTC) ERROR",
        "reserve run done 1 1970-01-01 00:00:00",
        "charge run failed 1 1970-01-01 00:00:00 E: no",
        "nap sleep waiting 0 due 1970-01-01 00:00:01 E: no",
        "approval wait waiting for e 0 due 1970-01-01 00:00:01",
    ]


def test_details_of_a_run_without_steps() -> None:
    """A run that has done nothing yet has no table of steps."""
    assert "STEP" not in details(replace(RECORD, memos=(), pending=()))


def test_json_has_steps_when_asked() -> None:
    """With steps, results and errors are JSON values of their own."""
    fields = json.loads(json.dumps(as_json(RECORD, steps=True)))

    assert ("r1", "sync", 1, None) == tuple(
        fields[name] for name in ("id", "phase", "created_at", "ended_at")
    )
    assert [{"seat": "12A"}, None] == [step.get("result") for step in fields["steps"]]
    assert [None, {"name": "E", "message": "no"}] == [step.get("error") for step in fields["steps"]]
    assert [("nap", None), ("approval", "e")] == [(p["id"], p["event"]) for p in fields["pending"]]


def test_json_of_a_list_has_no_steps() -> None:
    """Without steps the keys are absent, not empty."""
    assert {"steps", "pending"}.isdisjoint(as_json(RECORD))


def test_result_of_another_codec_is_shown_as_text() -> None:
    """What a codec of the user's has written, and is not JSON, is shown as it is."""
    record = replace(RECORD, memos=(memo(1, value="!!python/tuple [1]"),))

    fields = as_json(record, steps=True)

    assert isinstance(fields["steps"], list)
    assert "!!python/tuple [1]" == fields["steps"][0]["result"]
