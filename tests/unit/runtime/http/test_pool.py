"""What clients keep between requests."""

from __future__ import annotations

import ssl

import pytest

from durable_core.runtime.http.idle import PoolLimits
from durable_core.runtime.http.pool import Pool
from durable_core.wire.urls import Origin

A, B = (Origin(scheme="http", host=host, port=80) for host in "ab")
SECURE = Origin(scheme="https", host="a", port=443)


class Connection:
    """Notes that it was dropped."""

    def __init__(self, *, stale: bool = False) -> None:
        self.stale = stale
        self.dropped = 0

    def is_stale(self) -> bool:
        return self.stale

    def drop(self) -> None:
        self.dropped += 1


def pool_of(*, per_origin: int = 8, seconds: float = 1000) -> Pool[Connection]:
    return Pool(PoolLimits(per_origin=per_origin, seconds=seconds), None, Connection.drop)


def test_what_is_given_back_is_taken() -> None:
    """By the next request to the same server, and once."""
    pool, connection = pool_of(), Connection()
    pool.give_back(connection, A, is_reusable=True)

    assert [None, connection, None] == [pool.take(B), pool.take(A), pool.take(A)]
    assert 0 == connection.dropped


def test_what_cannot_be_used_again_is_dropped() -> None:
    """It is not kept."""
    pool, connection = pool_of(), Connection()
    pool.give_back(connection, A, is_reusable=False)

    assert (None, 1) == (pool.take(A), connection.dropped)


def test_what_is_too_many_is_dropped() -> None:
    """The oldest go first."""
    pool, old, new = pool_of(per_origin=1), Connection(), Connection()
    pool.give_back(old, A, is_reusable=True)
    pool.give_back(new, A, is_reusable=True)

    assert (1, new, 0) == (old.dropped, pool.take(A), new.dropped)


def test_what_was_kept_for_long_is_dropped() -> None:
    """Whichever server the next request is for."""
    pool, connection = pool_of(seconds=0), Connection()
    pool.give_back(connection, A, is_reusable=True)

    assert (None, 1) == (pool.take(B), connection.dropped)


def test_what_died_meanwhile_is_dropped() -> None:
    """The next one that is alive is taken."""
    pool = pool_of()
    alive, dead = Connection(), [Connection(stale=True), Connection(stale=True)]
    for each in (alive, *dead):
        pool.give_back(each, A, is_reusable=True)

    assert (alive, None) == (pool.take(A), pool.take(A))
    assert [0, 1, 1] == [each.dropped for each in (alive, *dead)]


def test_clearing() -> None:
    """What was kept is the caller's to close."""
    pool, connection = pool_of(), Connection()
    pool.give_back(connection, A, is_reusable=True)

    assert ([connection], []) == (pool.clear(), pool.clear())
    assert (None, 0) == (pool.take(A), connection.dropped)


def test_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ``https`` needs it; what the system trusts is read once, when it is first needed."""
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", make)
    pool = pool_of()
    assert (None, []) == (pool.tls_for(A), made)
    assert pool.tls_for(SECURE) is pool.tls_for(SECURE)
    assert 1 == len(made)


def test_tls_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used in place of what the system trusts."""
    given = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.delattr(ssl, "create_default_context")

    assert given is Pool(PoolLimits(), given, Connection.drop).tls_for(SECURE)
