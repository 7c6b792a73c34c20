"""Data classes that are cheap to make."""

from __future__ import annotations

from dataclasses import replace

from durable_core.model._record import record


@record(frozen=True, slots=True, kw_only=True)
class Point:
    """A record with a default."""

    x: int
    y: int = 0


def test_records_are_values() -> None:
    """They are equal, hashed, shown and replaced by their fields, as frozen data classes are."""
    assert Point(x=1) == Point(x=1, y=0)
    assert 1 == len({Point(x=1), Point(x=1)})
    assert "Point(x=1, y=2)" == repr(replace(Point(x=1), y=2))
    assert ("x", "y") == Point.__slots__


def test_the_type_checker_keeps_them_as_they_are() -> None:
    """To assign a field is an error for mypy (or the comment below would be one)."""
    point = Point(x=1)

    point.x = 2  # type: ignore[misc]

    assert 2 == point.x
