"""What a reader has missed: the law that nothing committed is lost or doubled."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from durable_core.machine.stream_cursor import Cursor, catch_up, is_stale
from durable_core.model.run import Phase
from durable_core.model.stream import (
    ChunkBatch,
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    RolledBack,
    StoredStream,
)
from support.stream_world import OPS, Client, World, finish, happenings

actions = st.one_of(
    happenings,
    st.tuples(st.just("follow"), st.integers(0, 1), st.integers(1, 9)),
    st.tuples(
        st.just("catch_up"), st.integers(0, 1), st.lists(happenings, max_size=5), st.integers(1, 5)
    ),
    st.tuples(st.just("reconnect"), st.integers(0, 1), st.booleans()),
)


def play(action: tuple[object, ...], world: World, clients: list[Client]) -> None:
    match action:
        case ("follow", int() as who, int() as most):
            for _ in range(most):
                clients[who].follow()
            clients[who].check()
        case ("catch_up", int() as who, list() as between, int() as most):
            clients[who].catch_up(between, most)
            clients[who].check()
        case ("reconnect", int() as who, bool() as is_near):
            clients[who].reconnect(is_near=is_near)
        case _:
            world.happen(*action)


@settings(max_examples=500)
@given(st.lists(actions, min_size=20, max_size=50), st.booleans())
def test_what_is_committed_is_read_once_and_in_order(
    program: list[tuple[object, ...]], live_at_end: bool
) -> None:
    """However pushes, commits, rollbacks, crashes, late joins, resumes and trims fall together:
    a client that keeps at a commit and drops at a rollback has what was committed, once and in
    order, and the chunks from outside steps, once and in order. Meanwhile it is shown nothing of
    a claim that is over and, where it is in step, just what is open.
    """
    world = World()
    clients = [Client(world, is_near=near) for near in (True, False)]

    for action in program:
        play(action, world, clients)
    finish(world, clients)
    for client in clients:
        client.is_near = client.is_near and live_at_end
        client.catch_up([])
        client.follow()

    for client in clients:
        assert world.committed == client.kept
        assert {} == client.tentative
        assert [str(index) for index in range(world.saved)] == client.outside[: world.saved]
        assert len(client.outside) == client.cursor.outside


@settings(max_examples=500)
@given(
    st.lists(happenings.filter(lambda action: action != ("crash",)), max_size=25),
    st.integers(0, 20),
    st.lists(happenings, max_size=25),
    st.integers(1, 5),
)
def test_the_handoff_loses_and_doubles_nothing(
    before: list[tuple[object, ...]],
    followed: int,
    after: list[tuple[object, ...]],
    most: int,
) -> None:
    """A client that is behind when it is handed off is told what came before that, and no more:
    with what another connection tells it from there on, it has all, once and in order.
    """
    world = World()
    client = Client(world, is_near=True)
    client.catch_up([])
    for action in before:
        world.happen(*action)
    for _ in range(followed):
        client.follow()
    handoff = world.handoff().dump()
    for action in after:
        world.happen(*action)

    client.catch_up([], until=Cursor.load(handoff))
    client.cursor = Cursor.load(handoff)
    finish(world, [client])
    while client.catch_up([], most):
        pass

    assert world.committed == client.kept
    assert {} == client.tentative
    assert [str(index) for index in range(len(client.outside))] == client.outside


def test_a_reader_elsewhere_keeps_what_may_still_be_committed() -> None:
    """An attempt of the current claim is not rolled back by a process that does not run it."""
    cursor = Cursor(open={OPS[0]: ((1, 1), 2)})

    assert [] == list(catch_up(cursor, _stored(epoch=1, held=True), None))
    assert 1 == len(list(catch_up(cursor, _stored(epoch=2, held=True), None)))


def test_nothing_is_open_while_nobody_has_the_run() -> None:
    """When no process holds the run, what was open in it is void."""
    cursor = Cursor(open={OPS[0]: ((1, 1), 2)})

    told = list(catch_up(cursor, _stored(epoch=1, held=False), None))

    assert [RolledBack(op_id=OPS[0], attempt=(1, 1))] == told


def test_a_run_without_a_record_is_known_from_its_process_alone() -> None:
    """Before its first checkpoint a run has only its live part."""
    live = LiveStream(
        epoch=1,
        attempts={(1, 1): OpenAttempt(op_id=OPS[0], texts=("1", "2"))},
        handler_chunks=(Pushed(text="0", index=0),),
    )

    told = list(catch_up(Cursor(), None, live))

    assert ["0", "1", "2"] == [event.text for event in told if isinstance(event, Pushed)]


def test_a_step_that_was_committed_meanwhile_is_not_told_again() -> None:
    """What the log says of a step that the store has as committed is older than that."""
    piece = ChunkBatch(number=1, texts=("1", "2"), op_id=OPS[0], attempt=(1, 1))
    live = LiveStream(epoch=1, attempts={(1, 1): OpenAttempt(op_id=OPS[0], texts=("1",))})

    told = list(catch_up(Cursor(), _stored(piece, epoch=1, held=True), live))

    assert Committed(op_id=OPS[0], number=1) == told[-1]


def test_what_a_process_knows_that_has_lost_the_run_does_not_count() -> None:
    """Attempts of an earlier claim are void, whoever still works on them."""
    cursor = Cursor(open={OPS[0]: ((1, 1), 1)})
    live = LiveStream(epoch=1, attempts={(1, 1): OpenAttempt(op_id=OPS[0], texts=("1", "2"))})

    told = list(catch_up(cursor, _stored(epoch=2, held=True), live))

    assert [RolledBack(op_id=OPS[0], attempt=(1, 1))] == told


def test_a_step_that_succeeded_without_chunks_voids_those_of_its_earlier_attempt() -> None:
    """The attempt that was seen is rolled back before the commit of the one that pushed none."""
    cursor = Cursor(open={OPS[0]: ((1, 1), 1)})
    piece = ChunkBatch(number=3, texts=(), op_id=OPS[0])

    told = list(catch_up(cursor, _stored(piece, epoch=2, held=True), None))

    assert [
        RolledBack(op_id=OPS[0], attempt=(1, 1)),
        Committed(op_id=OPS[0], number=3),
    ] == told


def test_a_copy_counts_while_it_is_as_far_as_the_reader() -> None:
    """It may be ahead of the store, but not behind, and not of a claim that is over."""
    live = LiveStream(epoch=1, attempts={}, done=2, is_remote=True)
    third = ChunkBatch(number=3, texts=(), op_id=OPS[0])
    held = _stored(epoch=1, held=True)

    assert not is_stale(live, Cursor(), held)
    assert not is_stale(live, Cursor(2), held)
    assert is_stale(live, Cursor(3), held)
    assert is_stale(live, Cursor(), _stored(third, epoch=1, held=True))
    assert not is_stale(live, Cursor(), _stored(replace(third, number=2), epoch=1, held=True))
    assert is_stale(live, Cursor(), _stored(epoch=2, held=True))
    assert is_stale(live, Cursor(), _stored(epoch=1, held=False))
    assert is_stale(live, Cursor(), None)
    assert not is_stale(replace(live, is_remote=False), Cursor(3), None)


def test_attempts_of_an_execution_that_is_over_are_stale() -> None:
    """What the log has of them after the snapshot would be their ends without their beginnings."""
    opened = OpenAttempt(op_id=OPS[0], texts=("1",))
    before = LiveStream(epoch=1, attempts={(1, 1): opened}, handler_chunks=(), done=0)

    assert is_stale(before, Cursor(), _stored(epoch=2, held=True))
    assert not is_stale(before, Cursor(), _stored(epoch=1, held=True))
    assert not is_stale(replace(before, attempts={}), Cursor(), _stored(epoch=2, held=True))


def _stored(*pieces: ChunkBatch, epoch: int, held: bool) -> StoredStream:
    return StoredStream(
        chunks=pieces, next=None, handoff=None, phase=Phase.ASYNC, epoch=epoch, is_running=held
    )
