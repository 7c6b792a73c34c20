"""The named statements: complete, all used, and served by indexes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest

from durable_core.stores.sqlite.sql import QUERIES, SCHEMA, parse_queries
from support.source_tree import CORE

#: Statements that read a whole table: one row a process, and a page of the command line's list.
SCANS = {"workers", "list-all"}


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    db.executescript(SCHEMA)
    yield db
    db.close()


def plan(db: sqlite3.Connection, query: str) -> list[str]:
    names = re.findall(r":(\w+)", query)
    values: dict[str, None] | list[None] = dict.fromkeys(names)
    if not names:
        values = [None] * query.count("?")
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values)]


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_no_statement_reads_a_whole_table(name: str, database: sqlite3.Connection) -> None:
    """Each stays as fast with a million runs as with one: tables are searched, not scanned."""
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_schema")}
    # Aliases of tables in the queries are searched by the same rule.
    scanned = [
        step
        for step in plan(database, QUERIES[name])
        if re.match(r"SCAN (\w+)", step) and step.split()[1] in tables | {"due"}
    ]

    assert bool(scanned) == (name in SCANS), scanned


def test_a_scan_would_be_seen(database: sqlite3.Connection) -> None:
    """The test above is able to fail."""
    assert ["SCAN run"] == plan(database, "SELECT * FROM run WHERE function_id = ?")


@pytest.mark.parametrize("name", ["due-runs", "next-due", "ended-before", "delete-events"])
def test_the_worker_reads_indexes_in_their_order(name: str, database: sqlite3.Connection) -> None:
    """The first rows wanted are the first ones found, by an index that holds only such rows."""
    assert any(
        "COVERING INDEX" in step and step.startswith("SEARCH")
        for step in plan(database, QUERIES[name])
    )


def test_every_statement_is_used() -> None:
    """No name in the file is without a place in the code, and no place without a name."""
    code = "".join(path.read_text() for path in (CORE / "stores" / "sqlite").glob("*.py"))

    used = set(re.findall(r'"([a-z]+(?:-[a-z]+)*)"', code))

    assert [] == sorted(QUERIES.keys() - used)
    assert set(re.findall(r'QUERIES\["([a-z-]+)"\]', code)) <= QUERIES.keys()


def test_a_file_of_queries_is_split_at_its_headers() -> None:
    """Text before the first header is a comment; comments inside stay with their statement."""
    text = "-- about\n\n-- first-one --\nSELECT 1\n\n-- second --\n-- why\nSELECT\n    2\n"

    assert {"first-one": "SELECT 1", "second": "-- why\nSELECT\n    2"} == dict(parse_queries(text))


def test_a_name_may_come_once() -> None:
    """The second would silently replace the first."""
    with pytest.raises(ValueError, match="twice"):
        parse_queries("-- a --\nSELECT 1\n-- a --\nSELECT 2\n")


def test_live_runs_are_found_by_indexes_of_their_own(database: sqlite3.Connection) -> None:
    """However many have ended; those that wait are read in order, up to the limit."""
    steps = plan(database, QUERIES["list-live"])
    assert any("USING INDEX run_owner (owner>?)" in step for step in steps), steps
    assert any("USING INDEX run_waiting (app=? AND phase=?" in step for step in steps)
    assert any(step.startswith("SEARCH run USING PRIMARY KEY (id=?)") for step in steps), steps


def test_failed_runs_are_found_by_their_own_index(database: sqlite3.Connection) -> None:
    """However many have completed; the listing needs no sorting either."""
    [step] = plan(database, QUERIES["list-failed"])
    assert "USING INDEX run_failed (app=? AND id<?)" in step
