"""``kill -9``, whenever it comes: every run finishes and no checkpointed step runs again."""

from __future__ import annotations

import json
import random
import socket
import struct
import time

import pytest

from support.ledger import assert_no_step_ran_again
from support.processes import Reply, World, fetch, until

_COOKIES = ["a=1; Path=/", "b=2; Path=/"]


def assert_booked(reply: Reply, trip: str, parts: list[object]) -> None:
    """The reply is the handler's own, to the last byte."""
    expected = json.dumps({"trip": trip, "parts": parts}, separators=(",", ":"))
    assert (201, expected) == (reply.status, reply.text)
    assert ([trip], _COOKIES) == (reply.all("x-trip"), reply.all("set-cookie"))
    assert ["application/json"] == reply.all("content-type")


def finished(world: World) -> None:
    """Wait until every run in the store has ended."""
    until("all runs have ended", world.store.all_ended)


def _until_flushed(world: World, steps: int) -> None:
    """Wait until the only run has so many steps in the store."""
    until("it is flushed", lambda: world.store.runs() and len(world.store.steps()) == steps)


def assert_stored(world: World, trip: str, parts: list[object]) -> None:
    """The only run's stored response is the handler's."""
    [(_, body)] = world.store.results().values()
    assert {"trip": trip, "parts": parts} == json.loads(body)


def test_kill_in_the_middle_of_a_step(world: World, face: str) -> None:
    """The client is attached and its connection breaks; after a restart the run finishes."""
    world.close_gate("T", "b")
    app = world.start()
    client = world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "b")
    app.kill()
    with pytest.raises(ConnectionError):
        client.result()
    world.open_gate("T", "b")
    world.start()
    finished(world)
    assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")
    assert_stored(world, "T", ["a", "b", "c"])


def test_kill_in_the_first_step_leaves_nothing(world: World, face: str) -> None:
    """Before the first checkpoint nothing was promised: no run is left behind half made."""
    world.close_gate("T", "a")
    app = world.start()
    client = world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "a")
    app.kill()
    with pytest.raises(ConnectionError):
        client.result()
    world.open_gate("T", "a")
    app = world.start()
    assert {} == world.store.runs()
    assert_booked(fetch(app.url(f"/{face}/steps?trip=U")), "U", ["a", "b", "c"])
    assert {"a": 1} == world.ledger.begun("T")


def test_kill_twice_in_a_row(world: World, face: str) -> None:
    """The second crash is in the replay; both leave the checkpoint before alone."""
    world.close_gate("T", "b")
    app = world.start()
    world.background(app.url(f"/{face}/steps?trip=T"))
    for count in (1, 2):
        world.reached("T", "b", count=count)
        app.kill()
        app = world.start()
    world.reached("T", "b", count=3)
    world.open_gate("T", "b")
    finished(world)
    assert {"a": 1, "b": 3, "c": 1} == world.ledger.begun("T")
    assert_stored(world, "T", ["a", "b", "c"])


def test_kill_between_steps_after_the_checkpoint(world: World, face: str) -> None:
    """A checkpoint is durable a moment after the step, although nothing waits for it."""
    world.close_gate("T", "after-a")
    app = world.start()
    world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "after-a", "at")
    _until_flushed(world, 1)
    app.kill()
    world.open_gate("T", "after-a")
    world.start()
    finished(world)
    assert {"a": 1, "b": 1, "c": 1} == world.ledger.begun("T")
    assert_stored(world, "T", ["a", "b", "c"])


def test_kill_between_steps_before_the_checkpoint(world: World, face: str) -> None:
    """What could not be flushed is done again, what was checkpointed is not."""
    for point in ("b", "after-b"):
        world.close_gate("T", point)
    app = world.start()
    world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "b")
    with world.store.locked():
        world.open_gate("T", "b")
        world.reached("T", "after-b", "at")
        app.kill()
    assert ["a"] == list(world.store.steps())
    world.open_gate("T", "after-b")
    world.start()
    finished(world)
    assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")
    assert_stored(world, "T", ["a", "b", "c"])


def test_kill_during_a_sleep(world: World, face: str) -> None:
    """The sleep survives, ends when due, and the old wait URL gives the exact response."""
    app = world.start()
    asked = time.time()
    handoff = fetch(app.url(f"/{face}/nap?trip=T&seconds=1.5"))
    assert 302 == handoff.status
    app.kill()
    app = world.start(port=app.port)
    assert_booked(fetch(handoff.location, follow=True), "T", ["nap"])
    assert time.time() - asked >= 1.5
    assert {"a": 1, "b": 1} == world.ledger.begun("T")
    assert 1 == len(world.store.runs())


@pytest.mark.slow
def test_a_sleep_is_over_when_the_process_comes_back_late(world: World, face: str) -> None:
    """Time passes while no process lives: the run goes on at once after the restart."""
    app = world.start()
    handoff = fetch(app.url(f"/{face}/nap?trip=T&seconds=2"))
    over = time.monotonic() + 2.1
    app.kill()
    until("the sleep is over", lambda: time.monotonic() > over)
    app = world.start(port=app.port)
    back = time.monotonic()
    assert_booked(fetch(handoff.location, follow=True), "T", ["nap"])
    assert world.reached("T", "b").at - back < 2


def test_kill_during_a_wait(world: World, face: str) -> None:
    """The wait survives; an event after the restart answers it."""
    app = world.start()
    handoff = fetch(app.url(f"/{face}/wait?trip=T"))
    assert 302 == handoff.status
    app.kill()
    app = world.start(port=app.port)
    client = world.background(handoff.location, follow=True)
    event = {"name": "go", "data": {"trip": "T", "n": 7}}
    sent = fetch(app.url("/events"), "POST", body=json.dumps(event).encode())
    assert 200 == sent.status
    assert_booked(client.result(), "T", [{"trip": "T", "n": 7}])
    assert {"a": 1, "b": 1} == world.ledger.begun("T")


def test_an_event_that_was_taken_is_not_lost_by_a_kill(world: World, face: str) -> None:
    """Once the events route has answered, the event counts, whatever happens next."""
    app = world.start()
    handoff = fetch(app.url(f"/{face}/wait?trip=T"))
    world.close_gate("T", "b")
    event = {"name": "go", "data": {"trip": "T"}}
    assert 200 == fetch(app.url("/events"), "POST", body=json.dumps(event).encode()).status
    app.kill()
    world.open_gate("T", "b")
    world.start(port=app.port)
    assert_booked(fetch(handoff.location, follow=True), "T", [{"trip": "T"}])
    assert 1 == world.ledger.begun("T")["a"]


def test_kill_during_the_back_off(world: World, face: str) -> None:
    """Failed attempts are remembered; the retry comes when due and the result is exact."""
    app = world.start(retry_ms=700)
    handoff = fetch(app.url(f"/{face}/retry?trip=T&failures=1"))
    assert 302 == handoff.status
    app.kill()
    failed = world.reached("T", "flaky", "fail").at
    world.start(port=app.port, retry_ms=700)
    assert_booked(fetch(handoff.location, follow=True), "T", [2])
    assert {"a": 1, "flaky": 2, "b": 1} == world.ledger.begun("T")
    assert world.reached("T", "flaky", count=2).at - failed >= 0.7


def test_a_crash_is_not_an_attempt(world: World, face: str) -> None:
    """With 3 retries a step that fails 3 times succeeds, crashes in between or not."""
    world.close_gate("T", "flaky")
    app = world.start(retry_ms=50)
    client = world.background(app.url(f"/{face}/retry?trip=T&failures=4"))
    world.reached("T", "flaky")
    app.kill()
    with pytest.raises(ConnectionError):
        client.result()
    world.open_gate("T", "flaky")
    world.start(retry_ms=50)
    finished(world)
    # 1 call that crashed and counts in the ledger only, then 3 failures, then success.
    assert {"a": 1, "flaky": 5, "b": 1} == world.ledger.begun("T")
    assert_stored(world, "T", [5])


def test_kill_while_steps_run_in_parallel(world: World, face: str) -> None:
    """Of steps with one id, those that were checkpointed keep their results, each its own."""
    world.close_gate("T", "save-2")
    app = world.start()
    world.background(app.url(f"/{face}/gather?trip=T"))
    world.reached("T", "save-2")
    _until_flushed(world, 2)
    app.kill()
    world.open_gate("T", "save-2")
    world.start()
    finished(world)
    assert {"save-0": 1, "save-1": 1, "save-2": 2} == world.ledger.begun("T")
    assert_stored(world, "T", ["save-0", "save-1", "save-2"])


def test_kill_after_a_handoff_in_mid_step(world: World, face: str) -> None:
    """A client that does not wait for a step finds its run, although the process has died since."""
    world.close_gate("T", "b")
    app = world.start()
    handoff = fetch(app.url(f"/{face}/steps?trip=T"), headers={"Prefer": "wait=1"})
    assert 202 == handoff.status
    assert {"a": 1, "b": 1} == world.ledger.begun("T")
    app.kill()
    world.open_gate("T", "b")
    world.start()
    finished(world)
    assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")
    assert_stored(world, "T", ["a", "b", "c"])


def test_a_client_that_goes_away_leaves_its_run_alone(world: World, face: str) -> None:
    """The connection is reset in mid-step: nobody notices, and the run goes on to its end."""
    world.close_gate("T", "b")
    app = world.start()
    with socket.create_connection(("127.0.0.1", app.port)) as client:
        client.sendall(f"GET /{face}/steps?trip=T HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        world.reached("T", "b")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    world.open_gate("T", "b")
    finished(world)
    assert {"a": 1, "b": 1, "c": 1} == world.ledger.begun("T")
    assert_stored(world, "T", ["a", "b", "c"])
    assert [] == app.errors()


def test_a_step_that_kills_its_process_again_and_again(world: World, face: str) -> None:
    """After so many take-overs without a checkpoint the run fails, and says so."""
    world.close_gate("T", "b")
    app = world.start(takeovers=2)
    handoff = fetch(app.url(f"/{face}/retry?trip=T&failures=1"))
    for count in (1, 2):
        world.reached("T", "b", count=count)
        app.kill()
        app = world.start(port=app.port, takeovers=2)
    reply = fetch(handoff.location, follow=True)
    assert (500, ["application/problem+json"]) == (reply.status, reply.all("content-type"))
    assert json.loads(reply.body)["type"].endswith("crashed-repeatedly")
    assert {"a": 1, "flaky": 2, "b": 2} == world.ledger.begun("T")


def test_progress_between_crashes_is_forgiven(world: World, face: str) -> None:
    """Only crashes without a new checkpoint in between count together."""
    for point in ("a", "b", "c"):
        world.close_gate("T", f"after-{point}")
    app = world.start(takeovers=2)
    world.background(app.url(f"/{face}/steps?trip=T"))
    for done, point in enumerate(("a", "b", "c"), start=1):
        world.reached("T", f"after-{point}", "at")
        _until_flushed(world, done)
        app.kill()
        world.open_gate("T", f"after-{point}")
        app = world.start(port=app.port, takeovers=2)
    finished(world)
    assert {"a": 1, "b": 1, "c": 1} == world.ledger.begun("T")
    assert_stored(world, "T", ["a", "b", "c"])


def test_an_event_is_sent_once(world: World, face: str) -> None:
    """However often the process dies after the step that sends it."""
    world.close_gate("T", "b")
    app = world.start()
    world.background(app.url(f"/{face}/send?trip=T"))
    for count in (1, 2):
        world.reached("T", "b", count=count)
        app.kill()
        app = world.start()
    world.open_gate("T", "b")
    finished(world)
    assert ["go"] == world.store.events()
    assert_stored(world, "T", [1])


def test_kill_in_the_middle_of_a_streamed_response(world: World, face: str) -> None:
    """What has begun to be sent is not made twice: the run fails and says why."""
    world.close_gate("T", "middle")
    app = world.start()
    client = world.background(app.url(f"/{face}/stream?trip=T"))
    world.reached("T", "middle", "at")
    app.kill()
    assert client.exception() is not None or client.result().body == b"first "
    world.open_gate("T", "middle")
    world.start()
    finished(world)
    assert ["failed"] == list(world.store.runs().values())
    [(_, body)] = world.store.results().values()
    assert json.loads(body)["type"].endswith("response-interrupted")
    assert 1 == len(world.ledger.find("T", "middle", "at"))


def test_a_streamed_response_is_kept(world: World, face: str) -> None:
    """Once it was sent whole it is as durable as any other."""
    app = world.start()
    reply = fetch(app.url(f"/{face}/stream?trip=T"))
    app.kill()
    assert (200, b"first second") == (reply.status, reply.body)
    assert [b"first second"] == [body for _, body in world.store.results().values()]
    assert ["completed"] == list(world.store.runs().values())


def test_kill_while_the_store_is_made(world: World) -> None:
    """A file that was left in the making is no obstacle to the next start."""
    for _ in range(6):
        app = world.start(wait=False)
        until("the file is there", world.store_path.exists)
        app.kill()
    app = world.start()
    assert 201 == fetch(app.url("/sync/steps?trip=T")).status
    assert world.store.is_sound()


def test_kill_after_the_response_leaves_the_result(world: World, face: str) -> None:
    """A response that was sent is on disk: a kill right after it loses nothing."""
    app = world.start()
    reply = fetch(app.url(f"/{face}/steps?trip=T"))
    app.kill()
    assert_booked(reply, "T", ["a", "b", "c"])
    assert ["completed"] == list(world.store.runs().values())
    assert_stored(world, "T", ["a", "b", "c"])
    assert world.store.is_sound()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_at_random_moments(world: World) -> None:
    """Many runs, killed again and again wherever they are: all end, none repeats what it had."""
    dice = random.Random(20)
    app = world.start(retry_ms=250)
    trips = [
        f"{face}-{kind}-{n}"
        for n in range(4)
        for face in ("sync", "async")
        for kind in ("steps", "nap", "retry")
    ]
    replies: dict[str, Reply] = {}
    left = list(trips)
    while left or not world.store.all_ended():
        asked, left = left[:4], left[4:]
        clients = {}
        for trip in asked:
            face, kind, _ = trip.split("-")
            query = f"trip={trip}&seconds=0.3&failures=1"
            clients[trip] = world.background(app.url(f"/{face}/{kind}?{query}"))
        _until_more_happened(world, dice.randrange(1, 16))
        app.kill()
        for trip, client in clients.items():
            if client.exception() is None:
                replies[trip] = client.result()
        app = world.start(port=app.port, retry_ms=250)
    for trip in trips:
        assert_no_step_ran_again(world.ledger.entries(trip))
    assert {"completed"} == set(world.store.runs().values())
    for trip, reply in replies.items():
        assert reply.status in (201, 302)
        if reply.status == 302:
            assert [trip] == fetch(app.here(reply.location), follow=True).all("x-trip")
    assert world.store.is_sound()


def _until_more_happened(world: World, entries: int) -> None:
    """Wait until the ledger has so many new entries, or there is nothing left to happen."""
    goal = len(world.ledger.entries()) + entries
    until(
        "enough has happened",
        lambda: len(world.ledger.entries()) >= goal or world.store.all_ended(),
    )
