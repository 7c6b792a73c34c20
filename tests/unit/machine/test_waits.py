"""When a stored event ends a pending wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_conformance.store_values import event, memo, pending, wait
from durable_core.machine.matching import match_keys, validate_rule, wait_matches, with_event_seq
from durable_core.model.event import StoredEvent
from durable_core.model.step import OpKind

STORED = StoredEvent(seq=5, event=event("1", x={"y": 1}), received_at=9)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ("",)),
        ("data.x.y", ("t:1", "j:1")),
        ("data.x", ('j:{"y":1}',)),
        ("data.z", ()),
    ],
)
def test_the_keys_of_an_event_are_those_of_its_value(path: str, expected: tuple[str, ...]) -> None:
    """Waits without a match have the empty path and the empty key."""
    assert expected == match_keys(STORED.event, path)


@pytest.mark.parametrize(
    ("mark", "seen", "expected"),
    [
        (4, (), True),
        (5, (), False),
        (6, (), False),
        (0, (5,), False),
        (0, (4, 6), True),
    ],
)
def test_only_events_after_the_mark_that_were_not_seen_count(
    mark: int, seen: tuple[int, ...], expected: bool
) -> None:
    """One event does not end two waits in a row."""
    assert expected == wait_matches(STORED, rule=wait().rule, mark=mark, seen=seen)


@pytest.mark.parametrize(("required", "expected"), [("1", True), ("2", False)])
def test_conditions_are_checked(required: str, expected: bool) -> None:
    """The keys decide where to look, the rule decides."""
    rule = wait(conditions=((("data", "x", "y"), required),)).rule

    assert expected == wait_matches(STORED, rule=rule, mark=0, seen=())


@pytest.mark.parametrize(
    ("sent", "expected"), [((), [0, 7]), ((("a", 4), ("b", 5)), [0, 7]), ((("a", 9),), [0, 9])]
)
def test_memos_of_sending_steps_are_marked_past_what_they_sent(
    sent: tuple[tuple[str, int], ...], expected: list[int]
) -> None:
    """A mark never goes back, and other memos keep theirs."""
    memos = [memo(1), replace(memo(2, kind=OpKind.SEND), event_seq=7)]

    assert expected == [each.event_seq for each in with_event_seq(memos, sent)]


def test_a_rule_is_checked_where_there_is_one() -> None:
    """A wait whose rule is no rule is refused; an op that waits for no event has none."""
    validate_rule(wait())
    validate_rule(replace(pending(), rule=""))
    with pytest.raises(ValueError, match="Expecting value"):
        validate_rule(replace(wait(), rule="["))
