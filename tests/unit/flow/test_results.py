"""Results and events by the types that the code names, in runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pydantic
import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import StepResultError, StepTypeError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from support.harness import FakeClock, Lab, Ledger, WatchedStore, lab, request, until

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])


@dataclass
class Order:
    """What the steps of these tests return."""

    id: int
    price: Decimal
    at: datetime


class Model(pydantic.BaseModel):
    """The same, by pydantic."""

    price: Decimal


MADE = Order(1, Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC))
LEDGER = Ledger()


def make_order(price: str = "1.50") -> Order:
    LEDGER.did("order", None)
    return Order(1, Decimal(price), datetime(2026, 1, 1, tzinfo=UTC))


async def make_order_async() -> Order:
    return make_order()


def make_model() -> Model:
    return Model(price=Decimal("1.50"))


def body_of(response: Response) -> str:
    assert isinstance(response.body, bytes)
    return response.body.decode()


def finish(handler: Callable[[Request], Any]) -> str:
    with lab() as process:
        return body_of(process.call(process.endpoint(handler)))


@both
def test_first_execution_and_replay_give_the_type(asynchronous: bool) -> None:
    """The handler gets an equal object of the type both times; the function is called once."""
    LEDGER.calls.clear()
    seen: list[object] = []

    def sync(request: Request) -> str:
        seen.extend([sync_step.run("order", make_order), sync_step.run("model", make_model)])
        sync_step.sleep("nap", 0.01)
        return "end"

    async def async_(request: Request) -> str:
        seen.extend([await step.run("order", make_order_async), await step.run("m", make_model)])
        await step.sleep("nap", 0.01)
        return "end"

    clock = FakeClock()
    with lab(clock=clock) as process:
        process.sleep_through(process.endpoint(async_ if asynchronous else sync), clock)
    assert [MADE, make_model()] * 2 == seen
    assert seen[0] is not seen[2]
    assert ["order"] == LEDGER.calls


def test_it_is_stored_as_json() -> None:
    """The store has readable JSON, and ``durable.runs`` shows it."""
    with lab() as process:
        process.call(process.endpoint(lambda request: sync_step.run("order", make_order).id))
        [run] = process.durable.runs.list()
        [shown] = process.durable.runs.get(run.id).steps
    assert {"id": 1, "price": "1.50", "at": "2026-01-01T00:00:00+00:00"} == shown.result


def test_result_option_goes_before_the_annotation() -> None:
    """``result=`` names the type of a function that says nothing, or something else."""

    def days() -> Any:
        return {date(2026, 1, 1)}

    def handler(request: Request) -> bool:
        return bool(sync_step.options(result=set[date]).run("days", days) == days())

    assert "true" == finish(handler)


def test_plain_result_option_turns_the_annotation_off() -> None:
    """With ``result=dict`` the value is stored as it is."""

    def lying() -> Order:
        return {"id": 1}  # type: ignore[return-value]

    def handler(request: Request) -> dict[str, object]:
        return sync_step.options(result=dict[str, object]).run("lying", lying)

    assert '{"id":1}' == finish(handler)


def test_a_name_in_an_annotation_is_that_of_its_module() -> None:
    """Equal annotations of two functions may name two classes; neither is taken for the other.

    An annotation that names none means the same for both, also when it is met again.
    """
    kinds: Any = [dataclass(type("Item", (), {"__annotations__": {"n": int}})) for _ in range(2)]
    makers = []
    for kind in kinds:
        names: dict[str, Any] = {"Item": kind, "date": date}
        exec("def items() -> list['Item']: return [Item(1)]", names)
        exec("def dates() -> dict[str, date] | None: return {'a': date(2026, 1, 1)}", names)
        makers.append((names["items"], names["dates"]))

    def handler(request: Request) -> bool:
        for items, dates in makers * 2:
            [item] = sync_step.run("items", items)
            assert items()[0] == item
            assert dates() == sync_step.run("dates", dates)
        return True

    assert "true" == finish(handler)


# Errors


@both
def test_value_of_another_type(asynchronous: bool) -> None:
    """A function that returns something else than it says has failed for good, with the path."""

    def lying() -> Order:
        LEDGER.did("lying", None)
        return Order(1, 1.5, datetime(2026, 1, 1))  # type: ignore[arg-type]

    LEDGER.calls.clear()

    def sync(request: Request) -> str:
        try:
            sync_step.run("lying", lying)
        except StepResultError as error:
            return str(error)
        return ""

    async def async_(request: Request) -> str:
        try:
            await step.run("lying", lying)
        except StepResultError as error:
            return str(error)
        return ""

    text = json.loads(finish(async_ if asynchronous else sync))
    assert "the result of step 'lying' cannot be stored: $.price: expected Decimal, not float" == (
        text
    )
    assert ["lying"] == LEDGER.calls


class Odd:
    """Nothing that has a form in JSON."""


def odd() -> Odd:
    return Odd()


@pytest.mark.parametrize(
    ("fn", "remedy"),
    [
        (lambda: (1, 2), "name its type, as the function's return annotation or step.options("),
        (odd, "Odd has no form in JSON: name a type that has one, as step.options(result=...)"),
    ],
    ids=["no annotation", "unknown type"],
)
def test_the_error_names_the_remedy(fn: Callable[[], object], remedy: str) -> None:
    """A value that is no JSON, and without a type, is refused as ever; the text says what to do."""
    text = finish(lambda request: sync_step.run("it", fn))
    assert "would not come back the same; allowed are str, int, finite float" in text
    assert remedy in text


def deployed(process: Lab, old: Callable[[], Any], new: Callable[[], Any]) -> str:
    """Run a step with old code, and replay it with new code; return the body at the end."""
    current = [old]

    def handler(request: Request) -> Any:
        try:
            value = sync_step.run("order", current[0])
        except StepTypeError as error:
            return str(error)
        sync_step.sleep("nap", "1h")
        return repr(value)

    clock = process.durable.engine.env.clock
    assert isinstance(clock, FakeClock)
    endpoint = process.endpoint(handler)
    first = endpoint.handle(request())
    until(lambda: process.suspended() > 0)
    current[0] = new
    clock.advance(3600)
    process.poke()
    return str(json.loads(body_of(process.follow(endpoint, first))))


@dataclass
class NewOrder:
    """Order after a deployment that needs more."""

    id: int
    price: Decimal
    currency: str


@dataclass
class KindOrder:
    """Order after a deployment that was careful."""

    id: int
    currency: str = "EUR"


def make_new() -> NewOrder:
    raise AssertionError("it is stored")


def make_kind() -> KindOrder:
    raise AssertionError("it is stored")


def test_a_value_that_no_longer_fits() -> None:
    """After a deployment, the error names the step, the field and the remedy."""
    with lab(clock=FakeClock()) as process:
        text = deployed(process, make_order, make_new)
    assert (
        "the stored result of step 'order' does not fit NewOrder: $.currency: NewOrder needs it, "
        "and it is not there; let the type take what is stored (a new field needs a default), or "
        "give the step a new id"
    ) == text


def test_a_value_that_still_fits() -> None:
    """A new field with a default, and one that is gone, change nothing for running runs."""
    with lab(clock=FakeClock()) as process:
        assert "KindOrder(id=1, currency='EUR')" == deployed(process, make_order, make_kind)


def test_uncaught_it_fails_the_run_at_once() -> None:
    """It is a mistake in the code, which no other attempt mends."""
    store = WatchedStore()

    def annotated() -> Order:
        raise AssertionError("it is stored")

    def handler(request: Request) -> Any:
        first = not store.checkpoints()
        value = sync_step.run("order", (lambda: {"id": 1}) if first else annotated)
        sync_step.sleep("nap", 0.01)
        return value

    with lab(store) as process:
        response = process.call(process.endpoint(handler))
    assert 500 == response.status
    assert "StepTypeError" in body_of(response)


# Events


@both
def test_typed_event(asynchronous: bool) -> None:
    """The data comes as the type; name and id are there."""

    def sync(request: Request) -> object:
        told = sync_step.wait_for_event("w", event="made", timeout="1h", data=Order)
        assert told is not None
        return [told.name, told.id, told.data == MADE]

    async def async_(request: Request) -> object:
        told = await step.wait_for_event("w", event="made", timeout="1h", data=Order)
        assert told is not None
        return [told.name, told.id, told.data == MADE]

    with lab() as process:
        endpoint = process.endpoint(async_ if asynchronous else sync)
        first = endpoint.handle(request())
        data = {"id": 1, "price": "1.50", "at": "2026-01-01T00:00:00Z"}
        process.durable.send(Event("made", data, id="m1"))
        assert '["made","m1",true]' == body_of(process.follow(endpoint, first))


def test_event_that_does_not_fit() -> None:
    """The error names step, event and field; the handler may catch it and wait again."""

    def handler(request: Request) -> object:
        try:
            sync_step.wait_for_event("first", event="made", timeout="1h", data=Model)
        except StepTypeError as error:
            told = sync_step.wait_for_event("second", event="made", timeout="1h", data=Model)
            return [str(error), told and str(told.data.price)]
        return None

    with lab() as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        process.durable.send([Event("made", {"price": "x"}, id="m1"), Event("made", {"price": 2})])
        text, price = json.loads(body_of(process.follow(endpoint, first)))
    assert text.startswith(
        "the data of event 'made' (m1), which ended step 'first', does not fit Model: $.price: "
    )
    assert "2" == price


def test_typed_wait_that_times_out() -> None:
    """It is None, as without a type."""

    def handler(request: Request) -> object:
        return sync_step.wait_for_event("w", event="made", timeout=0.01, data=Order)

    assert "null" == finish(handler)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: sync_step.options(result=Odd), "result: Odd has no form in JSON"),
        (
            lambda: sync_step.wait_for_event("w", event="e", timeout=1, data=Odd),
            "data: Odd has no form in JSON",
        ),
    ],
    ids=["result", "data"],
)
def test_unknown_types_are_refused_at_once(call: Callable[[], object], text: str) -> None:
    """A type without a form is a mistake where it is written."""

    def handler(request: Request) -> str:
        try:
            call()
        except ValueError as error:
            return str(error)
        return ""

    assert text in finish(handler)


# Return values of handlers


def handler_of_order(request: Request) -> Order:
    return sync_step.run("order", make_order)


async def handler_of_some(request: Request) -> list[Model] | Response:
    if "empty" in request.url:
        return Response(status=204)
    return [await step.run("model", make_model)]


def lying_handler(request: Request) -> Order:
    return {"id": 1}  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("handler", "url", "status", "body"),
    [
        (handler_of_order, "/", 200, '{"id":1,"price":"1.50","at":"2026-01-01T00:00:00+00:00"}'),
        (handler_of_some, "/", 200, '[{"price":"1.50"}]'),
        (handler_of_some, "/empty", 204, ""),
        (lying_handler, "/", 500, "expected Order, not dict"),
    ],
    ids=["dataclass", "union", "response", "lie"],
)
def test_handlers_return_their_types(
    handler: Callable[[Request], Any], url: str, status: int, body: str
) -> None:
    """What a handler's annotation names is sent as JSON; anything else is an error."""
    with lab() as process:
        response = process.endpoint(handler).handle(request(url))
    assert status == response.status
    assert body in body_of(response)
