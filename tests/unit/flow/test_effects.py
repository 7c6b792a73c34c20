"""What a flow can ask of the runtime."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from durable_core.flow import effects as asks
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import Effect, Flow, Returned, Unwound
from durable_core.http.response import Response
from durable_core.machine.step_ids import op_named
from durable_core.machine.stream_cursor import Cursor
from durable_core.model.fact import EventSent
from durable_core.model.step import OpKind

CURSOR = Cursor()
OP = op_named("x", OpKind.INVOKE)


def make_fact() -> EventSent:
    """Return a fact."""
    return EventSent(
        app="lab", run=None, name="paid", event_id="1", at=datetime(2026, 1, 1, tzinfo=UTC)
    )


WRAPPERS: list[tuple[Callable[[], Flow[Any]], Effect, object]] = [
    (lambda: asks.call_user(Call(int)), asks.CallUser(Call(int)), Returned(1)),
    (lambda: asks.call_handler(), asks.CallHandler(), Unwound()),
    (lambda: asks.park("x", 7), asks.Park("x", 7), None),
    (asks.see_if_alone, asks.SeeIfAlone(), True),
    (asks.see_handler_branch, asks.SeeHandlerBranch(), "the handler"),
    (lambda: asks.unwind_if_alone("x"), asks.UnwindIfAlone("x"), None),
    (lambda: asks.await_delivery(OP, 7), asks.AwaitDelivery(OP.id, "x", 7), None),
    (lambda: asks.drain_steps(), asks.DrainSteps(), None),
    (lambda: asks.await_other_steps(bool), asks.AwaitOtherSteps(bool), None),
    (lambda: asks.await_replay_turn(7), asks.AwaitReplayTurn(7), None),
    (lambda: asks.send_response(Response()), asks.SendResponse(Response()), None),
    (lambda: asks.log_warning("x"), asks.Log("x", None), None),
    (lambda: asks.notify(make_fact), asks.Notify(make_fact), None),
    (lambda: asks.read_result("x"), asks.ReadResult("x"), None),
    (lambda: asks.await_end("x", 7), asks.AwaitEnd("x", 7), True),
    (lambda: asks.read_stream("x", CURSOR, 7), asks.ReadStream("x", CURSOR, 7), None),
    (lambda: asks.await_stream(7), asks.AwaitStream(7), asks.WakeReason.MORE),
]


@pytest.mark.parametrize(
    ("make", "ask", "answer"), WRAPPERS, ids=lambda value: type(value).__name__
)
def test_wrappers(make: Callable[[], Flow[Any]], ask: Effect, answer: object) -> None:
    """Each wrapper asks one thing and returns its answer."""
    flow = make()
    asked = next(flow)
    assert type(ask) is type(asked)
    with pytest.raises(StopIteration) as stop:
        flow.send(answer)
    assert answer == stop.value.value


def test_every_ask_has_its_wrapper() -> None:
    """There is no Ask without a typed way to ask it, save those that every step yields itself.

    One that gives no answer, and that one flow alone needs, is yielded as it is, too.
    """
    bare = {asks.Submit, asks.AwaitDurable, StepAttempt, asks.AwaitRun}
    assert set(get_args(Effect)) - bare == {type(ask) for _, ask, _ in WRAPPERS}
