"""A run, its process, its log and its store, all of it simulated; and clients that read it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from durable_core.machine.step_ids import hash_step_id
from durable_core.machine.stream_cursor import Cursor, catch_up
from durable_core.model.run import Phase
from durable_core.model.stream import (
    Attempt,
    ChunkBatch,
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    RolledBack,
    StoredStream,
    Streamed,
    StreamPlace,
)

__all__ = ["OPS", "Client", "Trial", "World", "finish", "happenings", "ops"]

OPS = [hash_step_id(name) for name in "abc"]


@dataclass
class Trial:
    """One attempt in the simulated process."""

    op: str
    attempt: Attempt
    texts: list[str] = field(default_factory=list)
    number: int | None = None


class World:
    """A run, the process that executes it with its log, and the store; all of it simulated."""

    def __init__(self) -> None:
        self.stored: list[ChunkBatch] = []
        self.committed: list[str] = []
        self.epoch = 1
        self.held = True
        self.trials = 0
        self.numbers = 0
        self._live_again()

    def _live_again(self) -> None:
        """What a process knows that has just claimed the run."""
        self.open: dict[str, Trial] = {}
        self.queued: list[tuple[Trial, int]] = []
        self.unpublished: list[Trial] = []
        self.log: list[Pushed | tuple[Trial, int] | Committed | RolledBack] = []
        self.base = 0
        self.saved = sum(len(piece.texts) for piece in self.stored if piece.op_id is None)
        self.outside = self.durable_outside = self.saved
        self.before = self.position = self.numbers = max(
            (piece.number for piece in self.stored), default=0
        )

    def is_done(self, op: str) -> bool:
        return any(piece.op_id == op for piece in self.stored) or any(
            trial.op == op for trial, _ in self.queued
        )

    def begin(self, op: str) -> None:
        if op not in self.open and not self.is_done(op):
            self.trials += 1
            self.open[op] = Trial(op, (self.epoch, self.trials))

    def push(self, op: str) -> None:
        self.begin(op)
        trial = self.open.get(op)
        if trial is not None:
            trial.texts.append(f'"{trial.attempt}.{len(trial.texts)}"')
            self.log.append((trial, len(trial.texts) - 1))

    def push_outside(self) -> None:
        self.log.append(Pushed(text=str(self.outside), index=self.outside))
        self.outside += 1

    def succeed(self, op: str) -> None:
        """End the step, which may have pushed nothing in this attempt."""
        self.begin(op)
        if op in self.open:
            self.numbers += 1
            trial = self.open.pop(op)
            trial.number = self.numbers
            self.queued.append((trial, self.outside))

    def fail(self, op: str) -> None:
        if op in self.open:
            self.numbers += 1
            self.log.append(RolledBack(op_id=op, attempt=self.open.pop(op).attempt))

    def commit(self) -> None:
        """Make the first of the queued checkpoints durable, with what was pushed before it."""
        if not self.queued:
            return
        trial, outside = self.queued.pop(0)
        assert trial.number is not None
        if outside > self.saved:
            texts = tuple(map(str, range(self.saved, outside)))
            self.stored.append(ChunkBatch(number=self.position, texts=texts, start=self.saved))
            self.saved = outside
        self.position = trial.number
        self.stored += [
            ChunkBatch(
                number=trial.number,
                texts=(text,),
                op_id=trial.op,
                attempt=trial.attempt,
                start=index,
                last=index + 1 == len(trial.texts),
            )
            for index, text in enumerate(trial.texts)
        ] or [ChunkBatch(number=trial.number, texts=(), op_id=trial.op)]
        self.committed += trial.texts
        self.unpublished.append(trial)

    def publish(self) -> None:
        """Have the log learn of the first commit that it does not know of."""
        if self.unpublished:
            trial = self.unpublished.pop(0)
            assert trial.number is not None
            self.log.append(Committed(op_id=trial.op, number=trial.number))
            self.durable_outside = self.saved

    def crash(self) -> None:
        self.epoch += 1
        self._live_again()

    def trim(self) -> None:
        self.base = len(self.log)

    def happen(self, what: object, *args: object) -> None:
        getattr(self, str(what))(*args)

    def known(self) -> list[Trial]:
        """The attempts that the log knows of, and not yet that they are over."""
        return [*self.open.values(), *(trial for trial, _ in self.queued), *self.unpublished]

    def live(self) -> LiveStream:
        return LiveStream(
            epoch=self.epoch,
            attempts={
                each.attempt: OpenAttempt(
                    op_id=each.op, texts=tuple(each.texts), number=each.number
                )
                for each in self.known()
            },
            handler_chunks=tuple(
                Pushed(text=str(index), index=index)
                for index in range(self.durable_outside, self.outside)
            ),
            done=max((e.number for e in self.log if isinstance(e, Committed)), default=self.before),
        )

    def handoff(self) -> Cursor:
        """Where a client is that has read all of the log."""
        published = [event.number for event in self.log if isinstance(event, Committed)]
        live = self.live().attempts
        opened = {each.op_id: (attempt, len(each.texts)) for attempt, each in live.items()}
        return Cursor(max(published, default=0), self.outside, opened)

    def read(self, cursor: Cursor, most: int, begin: StreamPlace | None) -> StoredStream:
        """What a store answers: pieces past the cursor and the place, so many at a time."""
        pieces = [
            piece
            for piece in self.stored
            if (begin is None or piece.place >= begin)
            and (
                piece.number > cursor.done
                if piece.op_id is not None
                else piece.start + len(piece.texts) > cursor.outside
            )
        ]
        return StoredStream(
            chunks=tuple(pieces[:most]),
            next=pieces[most].place if len(pieces) > most else None,
            handoff=None,
            phase=Phase.ASYNC,
            epoch=self.epoch,
            is_running=self.held,
        )

    def event(self, index: int) -> Streamed:
        event = self.log[index]
        if not isinstance(event, tuple):
            return event
        trial, place = event
        return Pushed(
            text=trial.texts[place],
            index=place,
            op_id=trial.op,
            attempt=trial.attempt,
            number=trial.number,
        )


class Client:
    """A reader, and what its client makes of what it is told: commit keeps, rollback drops."""

    def __init__(self, world: World, *, is_near: bool) -> None:
        self.world = world
        self.is_near = is_near
        self.cursor = Cursor()
        self.last_id = self.cursor.dump()
        self.kept: list[str] = []
        self.outside: list[str] = []
        self.tentative: dict[str, list[str]] = {}
        self.over: set[str] = set()
        self.follows: tuple[int, int] | None = None
        self.next: StreamPlace | None = None

    def tell(self, event: Streamed, last_id: str) -> None:
        self.last_id = last_id
        match event:
            case Pushed(op_id=None, text=text):
                self.outside.append(text)
            case Pushed(op_id=str() as op, text=text):
                assert op not in self.over, "a chunk of a step that is over"
                assert text not in self.tentative.setdefault(op, []), "a chunk told twice"
                self.tentative[op].append(text)
            case Committed(op_id=op):
                assert op not in self.over, "a commit told twice"
                self.over.add(op)
                self.kept += self.tentative.pop(op, [])
            case RolledBack(op_id=op):
                self.tentative.pop(op, None)

    def catch_up(
        self,
        between: list[tuple[object, ...]],
        most: int = 99,
        until: Cursor | None = None,
    ) -> bool:
        """Read the store, with things happening between the look at the log and that."""
        world = self.world
        live = world.live() if self.is_near else None
        place = (world.epoch, len(world.log))
        for action in between:
            world.happen(*action)
        stored = world.read(self.cursor, most, self.next)
        self.next = stored.next
        for event in catch_up(self.cursor, stored, live, until):
            self.tell(event, self.cursor.dump())
        self.follows = place if self.is_near and not stored.more else None
        if until is None and not stored.more:
            claims = {attempt[0] for attempt, _ in self.cursor.open.values()}
            assert claims <= {stored.epoch}, "a chunk of a claim that is over"
        return stored.more

    def follow(self) -> None:
        """Read one event of the log, if the reader is in step with it."""
        if self.follows is None or self.follows[0] != self.world.epoch:
            self.follows = None
            return
        index = self.follows[1]
        if index < self.world.base:
            self.follows = None
        elif index < len(self.world.log):
            self.follows = self.world.epoch, index + 1
            for event in self.cursor.advance(self.world.event(index)):
                self.tell(event, self.cursor.dump())

    def check(self) -> None:
        """A client that is in step shows what is open of the steps that it does not have whole."""
        world = self.world
        if self.follows != (world.epoch, len(world.log)):
            return
        seen = (each for each in world.known() if each.texts and each.op not in self.over)
        opened = {each.op: each.texts for each in seen}
        assert opened == self.tentative

    def reconnect(self, *, is_near: bool) -> None:
        self.cursor = Cursor.load(self.last_id)
        self.is_near = is_near
        self.follows = self.next = None


ops = st.sampled_from(OPS)
happenings = st.one_of(
    st.tuples(st.sampled_from(["push", "push", "succeed", "succeed", "fail"]), ops),
    st.tuples(st.sampled_from(["commit", "commit", "publish", "push_outside", "trim", "crash"])),
)


def finish(world: World, clients: list[Client]) -> None:
    """Bring the run to its end: what was seen of code outside steps happens again on replay."""
    while world.outside < max(client.cursor.outside for client in clients):
        world.push_outside()
    for op in OPS:
        world.push(op)
        world.succeed(op)
    while world.queued:
        world.commit()
    while world.unpublished:
        world.publish()
    world.held = False
