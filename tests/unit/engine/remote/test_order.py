"""The order of steps that a remote server hands over unordered."""

from __future__ import annotations

from durable_core.engine.remote.execution import CompletionOrder


def test_one_after_the_other() -> None:
    """Nothing has to be kept of steps that are asked for one at a time."""
    order = CompletionOrder()
    for op_id in ("a", "b"):
        order.ask(op_id)
        assert order.is_known(op_id)
        order.decide(op_id)

    assert (False, False, False) == (
        order.is_parallel,
        order.is_apart("a"),
        order.is_apart("b"),
    )


def test_one_beside_others() -> None:
    """An outcome may not be seen before its place is known, while others are asked for."""
    order = CompletionOrder()
    for op_id in ("a", "b", "c"):
        order.ask(op_id)

    assert not order.is_known("b")
    order.decide("a")
    order.decide("c")
    assert order.is_known("b")
    assert order.is_parallel


def test_what_is_known_comes_first() -> None:
    """In the order that is kept; then what is not, in the order of the asking."""
    order = CompletionOrder(["c", "b", "c"])
    for op_id in ("a", "b", "c", "d"):
        order.ask(op_id)

    assert ["c", "b", "a", "d"] == sorted("abcd", key=order.place)
    assert [False, True, True, False] == [order.is_known(op_id) for op_id in "abcd"]


def test_calls_of_their_own() -> None:
    """Steps beside others have them, and the next one after them; not the one after that."""
    order = CompletionOrder(["a"])
    for op_id in ("a", "b"):
        order.ask(op_id)
    for op_id in ("a", "b"):
        assert order.is_known(op_id)
        order.decide(op_id)
    for op_id in ("join", "after"):
        order.ask(op_id)
        order.finish(op_id)
        order.decide(op_id)

    assert [True, True, True, False] == [
        order.is_apart(op_id) for op_id in ("a", "b", "join", "after")
    ]


def test_what_finishes_here() -> None:
    """Only what finishes beside others has to be kept."""
    order = CompletionOrder()
    order.ask("alone")
    order.finish("alone")
    order.decide("alone")
    for op_id in ("a", "b"):
        order.ask(op_id)
    for op_id in ("b", "a"):
        order.finish(op_id)
        order.decide(op_id)

    assert ["b"] == order.finished
