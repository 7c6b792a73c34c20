"""The named statements: complete, all used, and served by indexes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

import pytest

from durable_core.stores.sqlite.sql import QUERIES, SCHEMA, parse_queries
from support.source_tree import CORE

#: Statements that read a whole table (one row a process, or a secret), or a whole index (one row a
#: wait that is still compared with the events before it, or a run that is being undone).
SCANS = {"workers", "secrets", "delete-secrets", "unscanned-wait", "list-cancelled"}


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


def test_a_part_stands_in_every_statement_that_names_it() -> None:
    """A part is no statement of its own, and one that is not there is a mistake."""
    text = "-- {id} --\nrun.id\n\n-- a --\nSELECT {id}\n\n-- b --\nSELECT 1, {id}\n"

    assert {"a": "SELECT run.id", "b": "SELECT 1, run.id"} == dict(parse_queries(text))
    with pytest.raises(KeyError, match="name"):
        parse_queries("-- a --\nSELECT {name}\n")


def test_the_children_of_a_run_are_found_by_an_index(database: sqlite3.Connection) -> None:
    """Those of a run that has ended are found without a look at the children of others."""
    steps = plan(database, QUERIES["abandoned-children-of"])

    assert "SEARCH run USING INDEX run_child (parent=?)" in steps


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("list-by-key", "run_key (app=? AND key=? AND id>? AND id<?)"),
        ("list-by-label", "PRIMARY KEY (app=? AND name=? AND value=? AND run_id>? AND run_id<?)"),
    ],
)
def test_runs_are_listed_in_the_order_of_an_index(
    name: str, search: str, database: sqlite3.Connection
) -> None:
    """The newest are found first: nothing is sorted, and what comes after the page is not read."""
    steps = plan(database, QUERIES[name])

    assert search in steps[0]
    assert [] == [step for step in steps if "TEMP B-TREE" in step]


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("list-by-phase", "run_phase (app=? AND phase=? AND id>? AND id<?)"),
        (
            "list-by-endpoint",
            "run_endpoint (app=? AND endpoint_key=? AND phase=? AND id>? AND id<?)",
        ),
    ],
)
def test_runs_of_each_phase_are_found_by_an_index(
    name: str, search: str, database: sqlite3.Connection
) -> None:
    """Each phase gives its newest in order; only these are read, and none is sorted."""
    steps = plan(database, QUERIES[name])

    assert "SEARCH run USING PRIMARY KEY (id=?)" == steps[0]
    assert any(search in step for step in steps), steps
    assert [] == [step for step in steps if "TEMP B-TREE" in step]


def test_the_phases_of_labelled_runs_are_found_in_indexes(database: sqlite3.Connection) -> None:
    """Of the table of runs only the page is read, and nothing is sorted."""
    steps = plan(database, QUERIES["list-by-label-and-phase"])

    assert "SEARCH run USING PRIMARY KEY (id=?)" == steps[0]
    for search in (
        "SEARCH found USING COVERING INDEX run_phase (app=? AND phase=? AND id=?)",
        "SEARCH found USING COVERING INDEX run_endpoint"
        " (app=? AND endpoint_key=? AND phase=? AND id=?)",
        "SEARCH label USING PRIMARY KEY (app=? AND name=? AND value=? AND run_id>? AND run_id<?)",
    ):
        assert search in steps
    assert [] == [step for step in steps if "TEMP B-TREE" in step]


@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("list-held", "SEARCH run USING INDEX run_owner (owner>?)"),
        ("list-cancelled", "SCAN run USING INDEX run_cancelled"),
    ],
)
def test_runs_in_a_rare_state_are_found_by_an_index_of_them_alone(
    name: str, search: str, database: sqlite3.Connection
) -> None:
    """However many others have not ended, these are not read."""
    steps = plan(database, QUERIES[name])

    assert search == steps[0]
