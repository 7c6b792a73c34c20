"""What a flow can ask of the runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from durable_core.flow import effects as asks
from durable_core.flow.effects import Ask, Call, Flow, InsideStep, Returned, Unwound
from durable_core.http.response import Response
from durable_core.machine.stream_cursor import Cursor

INSIDE = InsideStep("x")
CURSOR = Cursor()

WRAPPERS: list[tuple[Callable[[], Flow[Any]], Ask, object]] = [
    (lambda: asks.invoke(INSIDE, Call(int)), asks.Invoke(INSIDE, Call(int)), Returned(1)),
    (lambda: asks.handle(), asks.Handle(), Unwound()),
    (lambda: asks.park("x", 7), asks.Park("x", 7), None),
    (lambda: asks.quiesce(), asks.Quiesce(), None),
    (lambda: asks.in_turn(7), asks.InTurn(7), None),
    (lambda: asks.answer(Response()), asks.Answer(Response()), None),
    (lambda: asks.report("x"), asks.Report("x", None), None),
    (lambda: asks.read_result("x"), asks.ReadResult("x"), None),
    (lambda: asks.hold("x", 7), asks.Hold("x", 7), True),
    (lambda: asks.read_stream("x", CURSOR, 7), asks.ReadStream("x", CURSOR, 7), None),
    (lambda: asks.await_more(7), asks.AwaitMore(7), asks.Woken.MORE),
]


@pytest.mark.parametrize(
    ("make", "ask", "answer"), WRAPPERS, ids=lambda value: type(value).__name__
)
def test_wrappers(make: Callable[[], Flow[Any]], ask: Ask, answer: object) -> None:
    """Each wrapper asks one thing and returns its answer."""
    flow = make()
    asked = next(flow)
    assert type(ask) is type(asked)
    with pytest.raises(StopIteration) as stop:
        flow.send(answer)
    assert answer == stop.value.value


def test_every_ask_has_its_wrapper() -> None:
    """There is no Ask without a typed way to ask it, save those that every step yields itself."""
    bare = {asks.Submit, asks.Settle, asks.Begin}
    assert set(get_args(Ask)) - bare == {type(ask) for _, ask, _ in WRAPPERS}
