"""How long an operation may take."""

from __future__ import annotations

import pytest

from durable_core.errors import RequestTimeoutError
from durable_core.model.outgoing import Timeouts
from durable_core.runtime.http.budget import Budget


def test_each_operation_has_its_limit() -> None:
    """Without a limit of the whole, an operation has its own; None is for ever."""
    budget = Budget(Timeouts(connect=2, idle=None))

    assert (2, None) == (budget.connecting(), budget.waiting())
    assert "within 2 s (Timeouts.connect)" in str(budget.connect_error())
    assert "nothing moved on the connection for 3 s" in str(Budget(Timeouts(idle=3)).idle_error())


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
