"""The trip booking example, as its own author would test it: no server, no waiting."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from durable_core.testing import Client, Harness, harness
from support.source_tree import ROOT


@pytest.fixture
def trips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, with a ledger of the test's own."""
    spec = importlib.util.spec_from_file_location(
        "trip_booking", ROOT / "examples" / "trip_booking.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LEDGER", tmp_path / "trips.ledger")
    return module


@pytest.fixture
def t(trips: ModuleType) -> Iterator[Harness]:
    """The example's application, in the test's hands."""
    with harness(trips.durable) as t:
        yield t


@pytest.fixture
def client(t: Harness, trips: ModuleType) -> Client:
    """A client of all routes of the example."""
    return t.client(trips.application)


def ledger(client: Client, trip: str) -> object:
    """Return how often each step of a trip really happened, by the example's own route."""
    answer = client.get(f"/ledger?trip={trip}").json()
    assert isinstance(answer, dict)
    return answer["steps"]


def test_book(t: Harness, client: Client) -> None:
    """Three steps, answered at once."""
    reply = client.get("/book?trip=T1")

    assert (200, "T1") == (reply.status, reply.headers["x-trip"])
    assert ["reserve-seat", "charge-payment", "send-ticket"] == [s.name for s in t.steps(reply)]
    assert {"reserve-seat": 1, "charge-payment": 1, "send-ticket": 1} == ledger(client, "T1")


def test_flaky_payment(t: Harness, client: Client) -> None:
    """The payment fails twice: after 0.3 s and another 0.6 s the trip is booked."""
    reply = client.get("/book?trip=T2&flaky=2")
    assert reply.is_handoff
    t.advance("0.9s")

    assert {"trip": "T2", "attempts": 3}.items() <= items(reply.result().json())
    assert {"reserve-seat": 1, "charge-payment": 3, "send-ticket": 1} == ledger(client, "T2")


def test_payment_that_never_succeeds(t: Harness, client: Client) -> None:
    """After the last attempt the seat is released, and the client told."""
    t.fail_step("charge-payment", times=None, error=ConnectionError("no bank"))
    reply = client.get("/book?trip=T3", follow=True)

    assert (402, "no bank") == (reply.status, dict(items(reply.json()))["error"])
    assert {"reserve-seat": 1, "release-seat": 1} == ledger(client, "T3")


@pytest.mark.parametrize("step_id", ["reserve-seat", "charge-payment", "send-ticket"])
def test_crash_after_any_step(t: Harness, client: Client, step_id: str) -> None:
    """Whenever the process dies, each step happens once."""
    t.crash_after(step_id)
    reply = client.get("/book?trip=T4")

    assert 200 == reply.result().status
    assert {"reserve-seat": 1, "charge-payment": 1, "send-ticket": 1} == ledger(client, "T4")


def test_crash_within_a_payment(t: Harness, client: Client) -> None:
    """Paid, and died before that was written down: it is charged a second time, and no third."""
    t.crash_during("charge-payment")
    reply = client.get("/book?trip=T5")

    assert {"attempts": 2}.items() <= items(reply.result().json())
    assert {"reserve-seat": 1, "charge-payment": 2, "send-ticket": 1} == ledger(client, "T5")


@pytest.mark.parametrize("target", ["/book?trip=T6", "/nap?trip=T6", "/approval?trip=T6"])
def test_handlers_are_deterministic(t: Harness, client: Client, target: str) -> None:
    """Thrown away and replayed after every step, they ask for the same steps."""
    t.replay_everything()

    assert 200 == client.get(target, follow=True).status


def test_nap(t: Harness, client: Client) -> None:
    """It gets up when the time is over, not before."""
    reply = client.get("/nap?trip=T7&seconds=3600")
    t.advance("3599s")
    assert {"lie-down": 1} == ledger(client, "T7")
    t.advance("1s")

    assert {"trip": "T7", "slept": 3600.0} == reply.result().json()
    assert {"lie-down": 1, "get-up": 1} == ledger(client, "T7")


def test_approval(t: Harness, client: Client) -> None:
    """The event of the same trip approves it, whoever sends it."""
    by_event, by_request = client.get("/approval?trip=T8"), client.get("/approval?trip=T9")
    t.send("trip/approved", {"trip": "T8"})
    event = {"name": "trip/approved", "data": {"trip": "T9"}}
    assert 200 == client.post("/events", json=event).status

    assert {"trip": "T8", "approved": True} == by_event.result().json()
    assert {"trip": "T9", "approved": True} == by_request.result().json()


def test_approval_that_does_not_come(t: Harness, client: Client) -> None:
    """After a minute it is over, also if the process dies then."""
    t.crash_after("answer")
    reply = client.get("/approval?trip=T10")
    t.advance("60s")

    assert {"trip": "T10", "approved": False} == reply.result().json()


def items(value: object) -> set[tuple[str, object]]:
    assert isinstance(value, dict)
    return set(value.items())
