"""The programs of the soak: what they are, and what comes before what in them."""

from __future__ import annotations

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from soak.programs import (
    Branches,
    Call,
    Nap,
    Own,
    Program,
    Send,
    Sequence,
    Wait,
    Work,
    dump,
    leaves,
    load,
    predecessors,
    random_program,
)

PROGRAM = Sequence(
    (
        Work(5),
        Branches((Nap(1), Sequence((Wait(True), Send())))),
        Own(3),
        Call(5),
    )
)


def test_dump_and_load() -> None:
    """Each kind of node comes back as it was, through JSON."""
    assert load(json.loads(json.dumps(dump(PROGRAM)))) == PROGRAM


@given(seed=st.integers())
def test_random_programs(seed: int) -> None:
    """The same seed makes the same program; it has leaves, and comes back through JSON."""
    program = random_program(Random(seed))
    assert random_program(Random(seed)) == program
    assert list(leaves(program))
    assert load(dump(program)) == program


def test_random_programs_are_of_all_kinds() -> None:
    """A hundred programs have every kind of node."""

    def kinds(program: Program) -> set[type]:
        parts = program.parts if isinstance(program, Sequence | Branches) else ()
        return {type(program)}.union(*map(kinds, parts))

    dice = Random(1)
    found = set[type]().union(*(kinds(random_program(dice)) for _ in range(100)))
    assert {Work, Nap, Own, Wait, Send, Call, Sequence, Branches} == found


def test_leaves() -> None:
    """Each leaf has a path of its own, in the order of the program."""
    assert ["p-0", "p-1-0", "p-1-1-0", "p-1-1-1", "p-2", "p-3"] == [
        path for path, _ in leaves(PROGRAM)
    ]


def test_what_has_ended_before_a_leaf_begins() -> None:
    """Branches know nothing of each other; in a def handler they run one after the other."""
    assert {
        "p-0": set(),
        "p-1-0": {"p-0"},
        "p-1-1-0": {"p-0"},
        "p-1-1-1": {"p-0", "p-1-1-0"},
        "p-2": {"p-0", "p-1-0", "p-1-1-0", "p-1-1-1"},
        "p-3": {"p-0", "p-1-0", "p-1-1-0", "p-1-1-1", "p-2"},
    } == predecessors(PROGRAM, sequential=False)
    assert {"p-0", "p-1-0"} == predecessors(PROGRAM, sequential=True)["p-1-1-0"]
