"""What a replay may never change, for every handler of the corpus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from laws.corpus import CORPUS, Behaviour, World

from durable_core.api.adapter import HTTPHandler
from durable_core.flow.handoff import handoff_response, new_token
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.scope import HandlerKind
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.model.run import Phase
from durable_core.ports import Checkpoint, Release, RunRecord
from durable_core.runners.settings import Settings
from support.harness import Lab, Ledger, WatchedStore, a_request, lab, request, until

#: A client is handed off at once where a run waits for another one.
SETTINGS = Settings(unwind_time=2.0, invoke_wait=0.01)

FACES = [HandlerKind.DEF, HandlerKind.ASYNC_DEF]

pytestmark = pytest.mark.parametrize("behaviour", CORPUS, ids=lambda behaviour: behaviour.name)
both = pytest.mark.parametrize("face", FACES, ids=["def", "async"])


@dataclass
class Experiment:
    """One handler and one run of it, in as many processes as it takes."""

    behaviour: Behaviour
    face: HandlerKind
    store: WatchedStore = field(default_factory=WatchedStore)
    ledger: Ledger = field(default_factory=Ledger)

    def endpoint(self, process: Lab) -> HTTPHandler:
        """Make the handler an endpoint of a process."""

        def send(event: Event) -> object:
            return process.durable.send(event)

        world = World(self.ledger, send)
        world.child = process.endpoint(world.answer, function_id="child")
        handlers = self.behaviour.twins(world)
        return process.endpoint(handlers[FACES.index(self.face)])

    def run(self) -> Response:
        """Run it in one process, and give the final answer."""
        with lab(self.store, settings=SETTINGS) as process:
            return process.call(self.endpoint(process))

    def resume(self) -> Response:
        """Let another process finish it, and give the final answer."""
        [record] = self.records()
        with lab(self.store, settings=SETTINGS) as process:
            endpoint = self.endpoint(process)
            process.durable.start()
            token = new_token(process.durable.engine.env, record.run.id)
            way = handoff_response(ResolvedOptions(key="it"), "GET", record.run.id, token)
            return process.follow(endpoint, way)

    def crash(self, checkpoints: int) -> bool:
        """Run it in a process that dies after so many checkpoints; False if none were needed."""
        self.store.crash_after(checkpoints)
        with lab(self.store, settings=SETTINGS) as process:
            self.endpoint(process).handle(request())
            until(lambda: self.store.crashed.is_set() or self.ended())
        crashed = self.store.crashed.is_set()
        self.store.recover()
        return crashed

    def records(self) -> list[RunRecord]:
        """Return what is stored of the run of the handler."""
        return [each for each in self.store.list("lab", limit=10) if each.run.parent is None]

    def ended(self) -> bool:
        """Tell whether there are no runs that have not ended."""
        records = self.store.list("lab", limit=10)
        return bool(records) and all(record.run.phase.ended for record in records)

    def stored_steps(self) -> set[str]:
        """Return the names of the steps that are finished for good."""
        [record] = self.records()
        known = self.store.get("lab", record.run.id)
        assert known is not None
        return {memo.op.name for memo in known.memos}


def assert_right(behaviour: Behaviour, response: Response) -> None:
    assert behaviour.status == response.status
    assert isinstance(response.body, bytes)
    assert behaviour.body in response.body


@both
def test_undisturbed(behaviour: Behaviour, face: HandlerKind) -> None:
    """Left alone, a handler ends as its author meant, and each step has run once."""
    experiment = Experiment(behaviour, face)

    assert_right(behaviour, experiment.run())
    assert behaviour.calls == experiment.ledger.counts()
    assert set(experiment.store.memos().values()) == {1}


@both
def test_crash_after_each_checkpoint(behaviour: Behaviour, face: HandlerKind) -> None:
    """Wherever the process dies, another one comes to the same end and repeats no stored step."""
    checkpoints = 0
    while True:
        experiment = Experiment(behaviour, face)
        if not experiment.crash(checkpoints):
            break
        checkpoints += 1
        if not experiment.records():
            continue  # it died before anything was stored, and the client was told
        stored, before = experiment.stored_steps(), experiment.ledger.counts()

        assert_right(behaviour, experiment.resume())

        after = experiment.ledger.counts()
        assert after["pay"] <= 1, "a step with at_most_once has begun twice"
        assert {name: before[name] for name in stored} == {name: after[name] for name in stored}
        assert set(experiment.store.memos().values()) == {1}
    assert checkpoints > 0


def test_twins(behaviour: Behaviour) -> None:
    """The ``def`` and the ``async def`` form answer alike and take the same steps."""
    sync, asynchronous = (Experiment(behaviour, face) for face in FACES)
    answers = [_without_run_id(each.run()) for each in (sync, asynchronous)]

    assert answers[0] == answers[1]
    assert sync.ledger.counts() == asynchronous.ledger.counts()
    assert sync.store.memos() == asynchronous.store.memos()


@both
def test_all_from_memory(behaviour: Behaviour, face: HandlerKind) -> None:
    """Where every step is stored, a replay calls no step's function and ends the same."""
    first = Experiment(behaviour, face)
    first.run()
    [record] = first.records()
    known = first.store.get("lab", record.run.id)
    assert known is not None

    second = Experiment(behaviour, face)
    second.ledger.failed = Counter({"handler": 9})  # what failed outside steps does so no more
    _plant(second.store, known)

    assert_right(behaviour, second.resume())
    assert set(second.ledger.calls) <= {"handler"}
    assert second.store.memos() == Counter(memo.op.name for memo in known.memos)


def _plant(store: WatchedStore, known: RunRecord) -> None:
    """Store a run that has all its steps and lacks only its end."""
    memos = tuple(replace(memo, completion_no=index) for index, memo in enumerate(known.memos, 1))
    write = Checkpoint(
        run_id=known.run.id,
        owner="nobody",
        epoch=1,
        now=0,
        create=replace(known.run, phase=Phase.ASYNC, failures=0, epoch=1),
        request=a_request(),
        memos=memos,
        release=Release(due_at=0),
    )
    store.commit([write], wait=1.0)


def _without_run_id(response: Response) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
    assert isinstance(response.body, bytes)
    others = ("content-length", "sunset")  # which differ with the id and the time
    headers = tuple(pair for pair in response.headers.raw if pair[0] not in others)
    return response.status, headers, response.body.partition(b'"run_id"')[0]
