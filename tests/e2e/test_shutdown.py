"""SIGTERM: clients are handed off, steps in flight are kept, and a restart goes on."""

from __future__ import annotations

import json
import signal
import time

import pytest

from support.processes import World, fetch, until, until_held

pytestmark = pytest.mark.slow

#: So long may an orderly stop take where nothing has to be waited for, seconds.
_SOON = 5.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once(world: World, number: signal.Signals) -> None:
    """Exit code 0, nothing left registered, nothing logged as an error."""
    app = world.start()
    assert 201 == fetch(app.url("/sync/steps?trip=T")).status
    began = time.monotonic()
    app.signal(number)
    assert 0 == app.wait()
    assert time.monotonic() - began < _SOON
    assert set() == world.store.peers()
    assert [] == app.errors()


def test_a_client_in_mid_step_is_handed_off(world: World, face: str) -> None:
    """It is redirected; the step is checkpointed, no other begins; a restart continues."""
    world.close_gate("T", "b")
    app = world.start()
    client = world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "b")
    app.terminate()
    until("it listens no more", lambda: not app.accepts())
    if face == "async":
        assert 302 == client.result().status, "an async handler's client is handed off at once"
    world.open_gate("T", "b")
    assert 302 == client.result().status
    began = time.monotonic()
    assert 0 == app.wait()
    assert time.monotonic() - began < _SOON
    assert {"a": 1, "b": 1} == world.ledger.begun("T")
    assert ["a", "b"] == list(world.store.steps())
    world.start(port=app.port)
    answer = fetch(client.result().location, follow=True)
    assert (201, ["a", "b", "c"]) == (answer.status, json.loads(answer.body)["parts"])
    assert {"a": 1, "b": 1, "c": 1} == world.ledger.begun("T")


def test_clients_in_their_last_step_are_answered(world: World, face: str) -> None:
    """Nothing is left to be done: the client of a ``def`` handler gets the response itself."""
    world.close_gate("T", "after-c")
    app = world.start()
    client = world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "after-c", "at")
    app.terminate()
    until("it listens no more", lambda: not app.accepts())
    world.open_gate("T", "after-c")
    reply = client.result()
    assert 0 == app.wait()
    assert reply.status in (201, 302)
    if reply.status == 302:
        world.start(port=app.port)
        reply = fetch(reply.location, follow=True)
    assert ([201], ["T"]) == ([reply.status], reply.all("x-trip"))
    assert {"a": 1, "b": 1, "c": 1} == world.ledger.begun("T")


def test_waiting_clients_are_sent_on(world: World, face: str) -> None:
    """Those held at the wait URL are not cut off: they come back after the restart."""
    app = world.start()
    handoff = fetch(app.url(f"/{face}/nap?trip=T&seconds=2"))
    client = world.background(handoff.location)
    until_held(app)
    app.terminate()
    assert 303 == client.result().status
    assert 0 == app.wait()
    world.start(port=app.port)
    answer = fetch(client.result().location, follow=True)
    assert (201, ["T"]) == (answer.status, answer.all("x-trip"))
    assert {"a": 1, "b": 1} == world.ledger.begun("T")


def test_many_clients_at_once(world: World) -> None:
    """Whatever each was at, it gets an answer or a way to it, and every run ends."""
    app = world.start()
    kinds = ("sync/steps", "async/steps", "async/gather", "sync/retry")
    clients = {}
    for number in range(40):
        trip = f"T{number}"
        if number % 4 == 0:
            world.close_gate(trip, "b")
        target = f"/{kinds[number % 4]}?trip={trip}&failures=1"
        clients[trip] = world.background(app.url(target))
    until("it is in full swing", lambda: len(world.ledger.entries()) > 100)
    app.terminate()
    until("it listens no more", lambda: not app.accepts())
    for number in range(0, 40, 4):
        world.open_gate(f"T{number}", "b")
    replies = {trip: client.result() for trip, client in clients.items() if not client.exception()}
    assert 0 == app.wait()
    assert {reply.status for reply in replies.values()} <= {201, 302, 503}
    world.start(port=app.port)
    for trip, reply in replies.items():
        if reply.status == 302:
            answer = fetch(reply.location, follow=True)
            assert (201, [trip]) == (answer.status, answer.all("x-trip"))
        counts = world.ledger.begun(trip)
        assert {1} >= {count for name, count in counts.items() if name != "flaky"}
    until("all runs have ended", world.store.all_ended)
    assert {"completed"} == set(world.store.runs().values())


@pytest.mark.slow
def test_a_step_without_end_is_not_waited_for(world: World) -> None:
    """After the timeout of 10 s the process ends all the same; the step runs again."""
    world.close_gate("T", "b")
    app = world.start()
    client = world.background(app.url("/sync/steps?trip=T"))
    world.reached("T", "b")
    began = time.monotonic()
    app.terminate()
    assert 0 == app.wait(60)
    assert time.monotonic() - began < 10 + _SOON
    assert client.exception() is not None or client.result().status == 302
    assert ["a"] == list(world.store.steps())
    world.open_gate("T", "b")
    world.start()
    until("the run has ended", world.store.all_ended)
    assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")


def test_killed_while_it_stops(world: World, face: str) -> None:
    """The stop itself may be cut short: nothing is lost."""
    world.close_gate("T", "b")
    app = world.start()
    client = world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "b")
    app.terminate()
    until("it listens no more", lambda: not app.accepts())
    app.kill()
    assert client.exception() is not None or client.result().status == 302
    world.open_gate("T", "b")
    world.start(port=app.port)
    until("the run has ended", world.store.all_ended)
    assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")
