"""The identity of steps."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import DuplicateStepIdError
from durable_core.machine.step_ids import StepIds, hash_step_id, op_named
from durable_core.model.step import Op, OpKind

IDS = st.sampled_from(["a", "b", "a:1", "a:2", "a:1:1"])


class Branch:
    """A task; all are equal, so only identity tells them apart."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def next_name(allocator: StepIds, id: Any, branch: object) -> str:
    return allocator.next_op(id, OpKind.RUN, branch).name


def taken(*ids: str) -> list[str]:
    allocator, branch = StepIds(), Branch()
    return [next_name(allocator, id, branch) for id in ids]


@pytest.mark.parametrize(
    ("id", "digest"),
    [
        ("a", "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"),
        ("b", "e9d71f5ee7c92d6dc9e92ffdad17b8bd49418f98"),
        ("my-step-id", "e7d8a2f140845095749d60246ff1110c9d01d76a"),
    ],
)
def test_hashes_of_the_inngest_protocol(id: str, digest: str) -> None:
    """The hash is that of the Inngest protocol."""
    assert digest == hash_step_id(id)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_hash_is_sha1_of_utf8(id: str) -> None:
    """Lower-case hexadecimal SHA-1 of the UTF-8 text."""
    assert hashlib.sha1(id.encode()).hexdigest() == hash_step_id(id)


def test_repeats_are_numbered() -> None:
    """The first has no suffix, the second ``:1``, the third ``:2``; other ids do not count."""
    assert ["a", "a:1", "b", "a:2"] == taken("a", "a", "b", "a")


def test_a_literal_id_in_use_is_passed_over() -> None:
    """Where the id ``a:1`` was given literally, the second ``a`` is ``a:2``."""
    assert ["a", "a:1", "a:2", "a:3"] == taken("a", "a:1", "a", "a")
    assert ["a", "a:1", "a:1:1"] == taken("a", "a", "a:1")


@given(st.lists(IDS, max_size=12))
def test_no_two_steps_share_an_id_and_replay_agrees(ids: list[str]) -> None:
    """Indexed ids are unique, and the same calls get the same ids again."""
    first = taken(*ids)
    assert len(ids) == len(set(first))
    assert all(
        re.fullmatch(rf"{id}(:[1-9]\d*)?", text) for id, text in zip(ids, first, strict=True)
    )
    assert first == taken(*ids)


@given(st.lists(IDS, max_size=6), st.lists(IDS, max_size=6), st.randoms())
def test_two_branches_never_depend_on_their_order(
    left: list[str], right: list[str], random: Any
) -> None:
    """Either each branch gets the ids it gets alone, in any interleaving, or one gets the error."""
    branches = [(Branch(), iter(left)), (Branch(), iter(right))]
    allocator = StepIds()
    got: list[list[str]] = [[], []]
    order = [0] * len(left) + [1] * len(right)
    random.shuffle(order)
    try:
        for side in order:
            branch, ids = branches[side]
            got[side].append(next_name(allocator, next(ids), branch))
    except DuplicateStepIdError:
        shared = set(taken(*left)) & set(taken(*right))
        assert shared
    else:
        assert [taken(*left), taken(*right)] == got


def test_one_id_from_two_branches_is_refused_by_name() -> None:
    """In whichever order they come, the second one gets the error, which names the id."""
    allocator, first, second = StepIds(), Branch(), Branch()
    next_name(allocator, "save", first)
    with pytest.raises(DuplicateStepIdError, match="'save' is used by two tasks or threads"):
        next_name(allocator, "save", second)
    assert "save:1" == next_name(allocator, "save", first)
    with pytest.raises(DuplicateStepIdError, match="'save:1'"):
        next_name(allocator, "save:1", second)


def test_a_branch_is_kept_alive() -> None:
    """A new task cannot be taken for one that ended, by getting its address."""
    allocator = StepIds()
    next_name(allocator, "a", Branch())
    for _ in range(100):
        with pytest.raises(DuplicateStepIdError):
            next_name(allocator, "a", Branch())


def test_a_member_of_a_str_enum_is_its_value() -> None:
    """An enumeration of step ids may be used."""

    class Step(StrEnum):
        SAVE = "save"

    assert ["save", "save:1", "save:2"] == taken(Step.SAVE, "save", Step.SAVE)
    assert type(taken(Step.SAVE)[0]) is str


def test_what_is_no_step_id_is_refused() -> None:
    """Not empty, at most 255 characters, UTF-8 text, and not the reserved one."""
    for other in (None, 1, b"a"):
        with pytest.raises(TypeError, match="a step id must be a str"):
            taken(other)  # type: ignore[arg-type]
    for text in ("", "x" * 256, "\ud800"):
        with pytest.raises(ValueError, match="a step id must"):
            taken(text)
    with pytest.raises(ValueError, match="'complete' is reserved"):
        taken("complete")
    assert ["é" * 255] == taken("é" * 255)


def test_an_op_is_named_and_hashed() -> None:
    """It is the same for the same name and kind, and another one for another kind."""
    op = op_named("a", OpKind.RUN)

    assert Op(id=hash_step_id("a"), name="a", kind=OpKind.RUN) == op
    assert op is op_named("a", OpKind.RUN)
    assert OpKind.SLEEP is op_named("a", OpKind.SLEEP).kind
