"""Results that clients in this process wait for."""

from __future__ import annotations

from durable_core import Response
from durable_core.engine.remote.waiting import Results


def test_only_its_own_token_opens_a_result() -> None:
    """Neither another run's, nor none; a run that was not handed off here has no result."""
    results = Results(10)
    results.handed_off("a", "token-a")
    results.handed_off("b", "token-b")
    for run_id in ("a", "b", "c"):
        results.ended(run_id, Response.text(run_id))

    opened = {
        (r, t) for r in "abc" for t in ("token-a", "token-b", "", "\ud800") if results.get(r, t)
    }
    assert {("a", "token-a"), ("b", "token-b")} == opened


def test_results_are_bounded() -> None:
    """The oldest go when all together are too large, and when there are too many tokens."""
    results = Results(10)
    for number in range(12_000):
        results.handed_off(str(number), "t")
    results.ended("0", Response.text("gone"))
    large = Response(body=bytes(10 * 1024 * 1024))
    for number in range(11_000, 11_006):
        results.ended(str(number), large)

    kept = [n for n in range(12_000) if results.get(str(n), "t") is not None]
    assert [11_003, 11_004, 11_005] == kept
