"""Options that are numbers: what counts as one is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from http import HTTPStatus
from typing import Any

import pytest

from durable_core.adapter.server import check_address, check_max_connections
from durable_core.api.inspection import check_limit
from durable_core.duration import is_int, is_number
from durable_core.errors import HTTPError, RetryAfterError
from durable_core.flow.env import Limits
from durable_core.flow.limits import Concurrency
from durable_core.flow.step_options import StepOptions
from durable_core.http.response import Response
from durable_core.machine.retry import RetryPolicy
from durable_core.model.event import Event
from durable_core.runners.settings import Settings
from durable_core.testing.faults import FaultPlan


class Few(IntEnum):
    """An option's values, as a settings module of an application may name them."""

    ONE = 1
    SOME = 5
    REFUSED = 503


class Count(int):
    """Another class of whole numbers."""


OPTIONS: dict[str, Callable[[Any], object]] = {
    "Limits": lambda value: Limits(steps=value).steps,
    "Settings": lambda value: Settings(worker_threads=value).worker_threads,
    "Concurrency": lambda value: Concurrency(value).limit,
    "retries": lambda value: StepOptions(retries=value).retries,
    "Event.ts": lambda value: Event("a", ts=value).ts,
    "limit": check_limit,
    "max_connections": check_max_connections,
    "port": lambda value: check_address(value, "127.0.0.1"),
    "times": lambda value: FaultPlan().plan_failure("a", value, None),
}


@pytest.mark.parametrize("take", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("value", [5, Few.SOME, Count(5)], ids=["int", "IntEnum", "subclass"])
def test_a_whole_number(take: Callable[[Any], object], value: int) -> None:
    """An ``IntEnum``, and any other ``int`` that is no ``bool``, is as good as a plain one."""
    assert take(value) in (5, None)


@pytest.mark.parametrize("take", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("value", [True, 5.0, "5"])
def test_what_is_no_whole_number(take: Callable[[Any], object], value: object) -> None:
    """``True`` is a mistake, not a 1; the error shows what was given."""
    with pytest.raises((TypeError, ValueError)):
        take(value)


def test_statuses_and_seconds() -> None:
    """They follow the same rule."""
    assert (503, 503) == (Response(status=Few.REFUSED).status, HTTPError(Few.REFUSED).status)
    assert 404 == HTTPError(HTTPStatus.NOT_FOUND).status
    assert 5 == RetryAfterError("later", Few.SOME).retry_after
    assert 5 == RetryPolicy(factor=Few.SOME).factor
    with pytest.raises(TypeError, match="not bool"):
        RetryAfterError("later", True)
    with pytest.raises(TypeError, match="must be a number, not bool"):
        RetryPolicy(factor=True)
    with pytest.raises(TypeError, match="must be an int, not bool"):
        Response(status=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, (True, True)),
        (Few.ONE, (True, True)),
        (1.5, (False, True)),
        (True, (False, False)),
        ("1", (False, False)),
        (None, (False, False)),
    ],
)
def test_the_rule(value: object, expected: tuple[bool, bool]) -> None:
    """A ``bool`` is an ``int`` to Python, and no number to an option."""
    assert expected == (is_int(value), is_number(value))
