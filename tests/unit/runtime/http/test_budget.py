"""How long an operation may take."""

from __future__ import annotations

import pytest

from durable_core.errors import RequestTimeoutError
from durable_core.model.outgoing import Timeouts
from durable_core.runtime.http.budget import Budget


def test_each_operation_has_its_limit() -> None:
    """Without a limit of the whole, an operation has its own; None is for ever."""
    budget = Budget(Timeouts(connect=2, idle=None))

    assert pytest.approx(2) == budget.connecting()
    assert budget.waiting() is None
    assert "within 2 s (Timeouts.connect)" in str(budget.connect_error())
    assert "nothing moved on the connection for 3 s" in str(Budget(Timeouts(idle=3)).idle_error())


def test_addresses_share_what_is_left() -> None:
    """Each gets the same part of it; the last all that the others have left over."""
    budget = Budget(Timeouts(connect=30))

    shares = [budget.connecting(left) for left in (3, 2, 1)]

    assert [10, 15, 30] == [round(share) for share in shares if share is not None]
    assert None is Budget(Timeouts(connect=None)).connecting(2)


def test_connecting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time passes from the first time that it is asked, however many addresses there are."""
    now = 5.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    budget = Budget(Timeouts(connect=2))
    now = 100.0
    assert 1 == budget.connecting(2)
    now = 101.5
    assert 0.5 == budget.connecting()
    now = 102.0
    with pytest.raises(RequestTimeoutError, match=r"within 2 s \(Timeouts.connect\)"):
        budget.connecting()


def test_the_whole_limits_each_operation() -> None:
    """An operation has no longer than what is left."""
    waiting = Budget(Timeouts(idle=100, whole=50)).waiting()

    assert waiting is not None
    assert 0 < waiting <= 50


def test_a_spent_budget_names_the_whole() -> None:
    """When the time is up no operation begins, and an error names the limit that counted."""
    budget = Budget(Timeouts(connect=2, idle=3, whole=1e-9))

    for begin in (budget.connecting, budget.waiting):
        with pytest.raises(RequestTimeoutError, match="has taken over 1e-09 s"):
            begin()
    assert "Timeouts.whole" in str(budget.connect_error())
    assert "Timeouts.whole" in str(budget.idle_error())
