"""Which connections are kept."""

from __future__ import annotations

import pytest

from durable_core.runtime.http.idle import IdleConnections, PoolLimits
from durable_core.wire.urls import Origin

A, B, C = (Origin(scheme="http", host=host, port=80) for host in "abc")


def test_the_last_used_connection_of_the_origin_is_taken() -> None:
    """The one used last is likeliest alive; another server's is never given."""
    idle: IdleConnections[str] = IdleConnections(PoolLimits())
    for number, origin in enumerate((A, A, B)):
        assert [] == idle.put(origin, f"{origin.host}{number}", now=number)

    assert ["a1", "a0", None, "b2"] == [idle.take(A), idle.take(A), idle.take(A), idle.take(B)]


def test_each_origin_keeps_a_few() -> None:
    """One more than allowed gives up the oldest of that origin, and no other's."""
    idle: IdleConnections[str] = IdleConnections(PoolLimits(per_origin=2))
    for connection in ("b1", "a1", "a2"):
        idle.put(A if connection[0] == "a" else B, connection, now=0)

    assert ["a1"] == idle.put(A, "a3", now=0)
    assert ["b1", "a2", "a3"] == idle.clear()


def test_all_origins_share_a_limit() -> None:
    """One more than allowed gives up the oldest of all."""
    idle: IdleConnections[str] = IdleConnections(PoolLimits(in_all=2))
    idle.put(A, "a", now=0)
    idle.put(B, "b", now=0)

    assert ["a"] == idle.put(C, "c", now=0)


def test_a_pool_may_keep_none() -> None:
    """With a limit of 0 a connection is given back to be closed."""
    for limits in (PoolLimits(per_origin=0), PoolLimits(in_all=0), PoolLimits(seconds=0)):
        assert ["a"] == IdleConnections[str](limits).put(A, "a", now=0)


def test_connections_are_kept_for_a_time() -> None:
    """From its last second on a connection is given up."""
    idle: IdleConnections[str] = IdleConnections(PoolLimits(seconds=10))
    idle.put(A, "a", now=0)

    assert [] == idle.expire(9.9)
    assert ["a"] == idle.put(B, "b", now=10)
    assert idle.take(A) is None
    assert "b" == idle.take(B)


def test_limits_are_not_negative() -> None:
    """A negative limit is refused."""
    with pytest.raises(ValueError, match="must be 0 or more"):
        PoolLimits(per_origin=-1)
