"""Giving up what another thread waits for."""

from __future__ import annotations

from durable_client._abort import Abort


def test_it_calls_while_the_context_lasts() -> None:
    """Callbacks are called once, and not after their context."""
    abort, called = Abort(), list[str]()
    with abort.calling(lambda: called.append("over")):
        pass
    with abort.calling(lambda: called.append("a")), abort.calling(lambda: called.append("b")):
        assert not abort.is_set()
        abort.set()
        abort.set()

    assert abort.is_set()
    assert ["a", "b"] == called


def test_it_calls_at_once_when_it_is_set_already() -> None:
    """Whoever comes late is told, once."""
    abort, called = Abort(), list[str]()
    abort.set()
    with abort.calling(lambda: called.append("a")):
        abort.set()

    assert ["a"] == called
