"""How the command line shows runs."""

from __future__ import annotations

from dataclasses import replace

from durable_conformance.store_values import memo, pending, run, wait
from durable_core.api.runs import show_run
from durable_core.cli.text import details, table
from durable_core.codec.json import JSONCodec
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
SHOWN = show_run(RECORD, JSONCodec())


def test_table_has_a_line_for_each_run() -> None:
    """The table shows id, status, start and name, in columns as wide as they must be."""
    assert [
        "RUN  STATUS     STARTED (UTC)        NAME",
        "r1   suspended  1970-01-01 00:00:00  GET /x",
    ] == table([SHOWN]).splitlines()


def test_table_of_no_runs_is_the_heading() -> None:
    """Without runs there is a heading all the same."""
    assert ["RUN  STATUS  STARTED (UTC)  NAME"] == table([]).splitlines()


def test_text_of_users_cannot_break_the_table() -> None:
    """Control characters are replaced and long texts cut, so that a run stays one line."""
    shown = replace(SHOWN, name="GET /\x1b[2J\n" + "x" * 60_000)

    [_, line] = table([shown]).splitlines()

    assert "GET / [2J xxx" in line
    assert line.endswith("xxx...")
    assert 80 == len(line)


def test_text_of_users_cannot_command_the_terminal() -> None:
    """Also where one run is shown whole: no control character of C0 or C1, no line of its own."""
    hostile = "a\x1b]0;owned\x07\x9b2J\r\nstatus     completed\u202e"
    [step, *_] = SHOWN.steps
    shown = replace(
        SHOWN, name=hostile, error=hostile, steps=(replace(step, name=hostile, error=hostile),)
    )

    text = details(shown)

    assert text.replace("\n", "").isprintable()
    assert 10 + 4 == len(text.splitlines())


def test_details_show_steps_and_waits() -> None:
    """Each finished and each unfinished op is a line with its status and error."""
    lines = [" ".join(line.split()) for line in details(SHOWN).splitlines()]

    assert "name GET /x" in lines
    assert lines[-7:] == [
        "KIND STATUS TRIES WHEN (UTC) STEP",
        "run completed 1 1970-01-01 00:00:00 reserve",
        "run failed 1 1970-01-01 00:00:00 charge",
        "E: no",
        "sleep sleeping 0 1970-01-01 00:00:01 nap",
        "E: no",
        "wait waiting 0 1970-01-01 00:00:01 approval (for e)",
    ]


def test_details_of_a_run_without_steps() -> None:
    """A run that has done nothing yet has no table of steps."""
    assert "STEP" not in details(replace(SHOWN, steps=()))


def test_details_show_children_and_parents() -> None:
    """The whole id of a child is below its step, before its error; also that of the parent."""
    [first, *_] = SHOWN.steps
    started = replace(first, child="01" + "A" * 24), replace(first, child="r3", error="E: no")
    shown = replace(SHOWN, parent="r0", steps=started)

    lines = [" ".join(line.split()) for line in details(shown).splitlines()]

    assert "parent r0" in lines
    assert [f"run 01{'A' * 24}", "run r3: E: no"] == lines[-3::2]


def test_details_show_whether_somebody_was_told() -> None:
    """With the id of the run that tells it, which has the attempts."""
    told = replace(SHOWN, completion="failed", completion_run="r2")
    lines = [" ".join(line.split()) for line in details(told).splitlines()]

    assert "completion failed (r2)" in lines
    assert "completion" not in details(SHOWN)


def test_details_show_the_trace() -> None:
    """Its id, by which it is found where traces are kept."""
    shown = replace(SHOWN, traceparent=f"00-{'ab' * 16}-b7ad6b7169203331-01")
    assert f"trace      {'ab' * 16}" in details(shown).splitlines()
