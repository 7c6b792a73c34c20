"""The judge of the soak: each rule finds what breaks it, and nothing else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from soak.journal import Line
from soak.programs import Branches, Call, Program, Send, Wait, Work, dump
from soak.programs import Sequence as InSequence
from soak.verdict import StoreFacts, judge

TWO_STEPS = InSequence((Work(5, chunks=2), Work(5)))
SERVER = "http://127.0.0.1:1"


class Story:
    """The lines of one trip, one after the other; process 1 executes unless said otherwise."""

    def __init__(self, program: Program = TWO_STEPS, kind: str = "async", end: str = "") -> None:
        self._clock = itertools.count()
        self.lines: list[Line] = []
        url = f"{SERVER}/{kind}"
        self.add("sent", url=url, kind=kind, streamed=False, end=end, program=dump(program))

    def add(self, what: str, **facts: object) -> Story:
        """Add a line about the trip."""
        self.lines.append({"what": what, "at": next(self._clock), "pid": 1, "trip": "T", **facts})
        return self

    def chaos(self, what: str, target: int = 1, server: str = SERVER) -> Story:
        """Add a line about a process."""
        line = {"what": what, "at": next(self._clock), "target": target, "server": server}
        self.lines.append({**line, "kind": "wsgi"})
        return self

    def enter(self, execution: str = "x", pid: int = 1) -> Story:
        """A handler is entered."""
        return self.add("enter", execution=execution, pid=pid, run="R")

    def ask(self, path: str, execution: str = "x", pid: int = 1) -> Story:
        """A handler comes to a step."""
        return self.add("ask", path=path, execution=execution, pid=pid)

    def begin(self, path: str, attempt: str, execution: str = "x", pid: int = 1) -> Story:
        """A handler comes to a step, whose function begins."""
        self.ask(path, execution, pid)
        return self.function(path, attempt, execution, pid)

    def function(
        self, path: str, attempt: str, execution: str = "x", pid: int = 1, seen: str = ""
    ) -> Story:
        """A step's function begins."""
        facts = {"path": path, "attempt": attempt, "execution": execution, "seen": seen or path}
        return self.add("begin", pid=pid, **facts)

    def end(self, path: str, attempt: str, execution: str = "x", pid: int = 1) -> Story:
        """A step's function returns."""
        return self.add("end", path=path, attempt=attempt, execution=execution, pid=pid)

    def step(self, path: str, attempt: str, execution: str = "x", pid: int = 1) -> Story:
        """A step begins and ends."""
        return self.begin(path, attempt, execution, pid).end(path, attempt, execution, pid)

    def undo(self, *paths: str) -> Story:
        """These steps are undone."""
        for path in paths:
            self.add("undo", path=path, attempt="a", execution="x")
        return self

    def told(self, status: int = 200, body: str = "") -> Story:
        """The client got this."""
        return self.add("told", status=status, body=body)


def result(*values: object) -> str:
    """Return the body of the trip's result."""
    return json.dumps({"trip": "T", "value": list(values)})


GOOD = result({"attempt": "a"}, {"attempt": "b"})


def stored(
    body: str | None = GOOD,
    *,
    phase: str = "completed",
    notes: Mapping[tuple[str, str], Sequence[str]] | None = None,
) -> StoreFacts:
    """Return a store with the trip's run; without a body it has none."""
    if body is None:
        return StoreFacts(phases={}, results={}, notes={})
    return StoreFacts(phases={"R": phase}, results={"R": body.encode()}, notes=notes or {})


def rules(story: Story, store: StoreFacts) -> list[str]:
    """Return the rules that are broken."""
    return [violation.rule for violation in judge(story.lines, store)[0]]


def good() -> Story:
    """Return a run without any trouble, up to its last step."""
    return Story().enter().step("p-0", "a").step("p-1", "b")


def test_a_run_without_trouble() -> None:
    """Nothing is found, and everything is counted."""
    story = good().told(302).told(200, GOOD)
    violations, tally = judge(story.lines, stored())
    assert [] == violations
    assert (1, 1, 1, 1, 2) == (
        *(tally.sent, tally.answered, tally.redirected, tally.executions),
        tally.attempts,
    )


# -- steps -------------------------------------------------------------------------------------


def test_a_step_runs_again() -> None:
    """After a crash in the step it may; once a later step has begun it may not."""
    crash = Story().enter().begin("p-0", "0").enter("y", 2).step("p-0", "a", "y", 2)
    crash.step("p-1", "b", "y", 2).told(200, GOOD)
    assert [] == rules(crash, stored())
    late = good().enter("y", 2).begin("p-0", "c", "y", 2).told(200, GOOD)
    assert ["a step ran again"] == rules(late, stored())


def test_branches_may_overlap() -> None:
    """A branch may begin again after another one has begun, but not once they are joined."""
    program = InSequence((Branches((Work(1), Work(1))), Work(1)))
    body = json.dumps({"trip": "T", "value": [[{"attempt": "c"}, {"attempt": "b"}], "x"]})
    body = body.replace('"x"', '{"attempt": "d"}')

    def story() -> Story:
        return Story(program).enter().begin("p-0-0", "a").step("p-0-1", "b").enter("y", 2)

    again = story().step("p-0-0", "c", "y", 2).step("p-1", "d", "y", 2).told(200, body)
    assert [] == rules(again, stored(body))
    late = story().step("p-0-0", "c", "y", 2).step("p-1", "d", "y", 2).begin("p-0-1", "e", "y", 2)
    assert ["a step ran again"] == rules(late.told(200, body), stored(body))


def test_two_owners() -> None:
    """An execution begins a step after another one of the run has been entered."""
    story = Story().enter().step("p-0", "a").enter("y", 2).step("p-1", "b").told(200, GOOD)
    assert ["two owners"] == rules(story, stored())


def test_a_freeze_between_the_look_at_the_lease_and_the_function() -> None:
    """Nobody can rule that out: it is counted, and no violation."""
    story = Story().enter().step("p-0", "a").ask("p-1").chaos("freeze").enter("y", 2)
    story.chaos("thaw").function("p-1", "b").end("p-1", "b").told(200, GOOD)
    violations, tally = judge(story.lines, stored())
    assert [] == violations
    assert 1 == tally.in_the_gap


def test_a_freeze_between_the_time_of_a_line_and_the_line() -> None:
    """The time of the line is before the freeze, and the line is in the journal after it."""
    story = Story().enter().step("p-0", "a").ask("p-1").chaos("freeze").enter("y", 2)
    story.chaos("thaw").function("p-1", "b").end("p-1", "b").told(200, GOOD)
    [begun] = [
        each for each in story.lines if each.get("attempt") == "b" and each["what"] == "begin"
    ]
    [frozen] = [each for each in story.lines if each["what"] == "freeze"]
    begun["at"] = frozen["at"] - 0.5
    violations, tally = judge(story.lines, stored())
    assert [] == violations
    assert 1 == tally.in_the_gap


def test_a_freeze_there_excuses_a_step_that_ran_again() -> None:
    """The other process has gone on, past this step, before the frozen one calls its function."""
    story = Story().enter().ask("p-0").chaos("freeze").enter("y", 2)
    story.ask("p-0", "y", 2).function("p-0", "a", "y", 2).end("p-0", "a", "y", 2)
    story.ask("p-1", "y", 2).function("p-1", "b", "y", 2).end("p-1", "b", "y", 2)
    story.chaos("thaw").function("p-0", "c").end("p-0", "c").told(200, GOOD)
    violations, tally = judge(story.lines, stored())
    assert [] == violations
    assert 1 == tally.in_the_gap


@pytest.mark.parametrize("frozen", ["never", "before it asked", "after it had begun"])
def test_a_step_that_ran_again_without_such_a_freeze(frozen: str) -> None:
    """The process had to look at the lease after the freeze; it is seen by both rules."""
    story = Story().enter()
    if frozen == "before it asked":
        story.chaos("freeze").chaos("thaw")
    story.ask("p-0").enter("y", 2)
    story.ask("p-0", "y", 2).function("p-0", "a", "y", 2).end("p-0", "a", "y", 2)
    story.ask("p-1", "y", 2).function("p-1", "b", "y", 2).end("p-1", "b", "y", 2)
    story.function("p-0", "c")
    if frozen == "after it had begun":
        story.chaos("freeze").chaos("thaw")
    story.end("p-0", "c").told(200, GOOD)
    assert ["a step ran again", "two owners"] == sorted(rules(story, stored()))


def test_the_result_of_an_attempt_in_the_gap_is_refused() -> None:
    """The function may run, but the run must not have what it returned."""
    other = result({"attempt": "c"}, {"attempt": "b"})
    story = Story().enter().ask("p-0").chaos("freeze").enter("y", 2).step("p-0", "a", "y", 2)
    story.step("p-1", "b", "y", 2).chaos("thaw").function("p-0", "c").end("p-0", "c")
    assert ["a wrong result"] == rules(story.told(200, other), stored(other))


def test_a_freeze_is_no_excuse_for_the_same_execution() -> None:
    """To call a function twice, or one whose result it has, it needs no other process."""
    for ends in (True, False):
        story = Story().enter().begin("p-0", "a")
        if ends:
            story.end("p-0", "a").step("p-1", "b").enter("y", 2).ask("p-0")
        else:
            story.enter("y", 2).step("p-0", "a", "y", 2).step("p-1", "b", "y", 2)
        story.chaos("freeze").chaos("thaw").function("p-0", "c").end("p-0", "c")
        assert ["a step ran again", "two owners"] == sorted(rules(story.told(200, GOOD), stored()))


def test_a_freeze_elsewhere_is_no_excuse() -> None:
    """In the step before, or in code of the handler: the process had to look at the lease."""
    in_step = Story().enter().begin("p-0", "a").chaos("freeze").enter("y", 2).chaos("thaw")
    in_step.end("p-0", "a").step("p-1", "b").told(200, GOOD)
    assert ["two owners"] == rules(in_step, stored())
    between = Story().enter().step("p-0", "a").chaos("freeze").enter("y", 2).chaos("thaw")
    assert ["two owners"] == rules(between.step("p-1", "b").told(200, GOOD), stored())


def test_a_freeze_of_another_process_is_no_excuse() -> None:
    """Only that of the process whose step begins."""
    story = Story().enter().step("p-0", "a").ask("p-1").chaos("freeze", target=3)
    story.enter("y", 2).chaos("thaw", target=3).function("p-1", "b").end("p-1", "b")
    story.told(200, GOOD)
    assert ["two owners"] == rules(story, stored())


def test_a_stored_result_changed() -> None:
    """A step begins a second time, and the results before it are others."""
    story = Story().enter().step("p-0", "a").begin("p-1", "0").enter("y", 2).ask("p-1", "y", 2)
    story.function("p-1", "b", "y", 2, seen="other").end("p-1", "b", "y", 2)
    assert ["a stored result changed"] == rules(story.told(200, GOOD), stored())


# -- results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        result({"attempt": "a"}, {"attempt": "never"}),
        result({"attempt": "b"}, {"attempt": "a"}),
        result({"attempt": "a"}, None),
        result({"attempt": "a"}),
        result({"attempt": "a"}, "failed"),
    ],
)
def test_a_wrong_result(body: str) -> None:
    """Each step's result is of an attempt of its own that ended, or it failed often enough."""
    assert {"a wrong result"} == set(rules(good().told(200, body), stored(body)))


def test_a_step_that_failed_for_good() -> None:
    """It has had all of its attempts."""
    story = Story(InSequence((Work(1, 99),))).enter()
    for attempt in "abcdef":
        story.begin("p-0", attempt).add("fail", path="p-0", attempt=attempt, execution="x")
    body = result("failed")
    assert [] == rules(story.told(200, body), stored(body))


@pytest.mark.parametrize(
    ("answered", "value", "expected"),
    [
        (True, {"trip": "T", "token": "T/p-0/x"}, []),
        (True, {"trip": "T", "token": "T/p-1/x"}, ["a wrong result"]),
        (True, None, ["a wrong result"]),
        (False, None, []),
        (False, {"trip": "T", "token": "T/p-0/x"}, ["a wrong result"]),
    ],
)
def test_a_wait(answered: bool, value: object, expected: list[str]) -> None:
    """It gives an event that was sent for it; without one it times out."""
    body = result(value)
    story = Story(InSequence((Wait(answered),))).enter().told(200, body)
    assert expected == rules(story, stored(body))


@pytest.mark.parametrize("ids", [[], ["e1", "e2"], ["e3"]])
def test_an_event_is_sent_once(ids: list[str]) -> None:
    """The store has the event with the id that the step gave, once."""
    story = Story(InSequence((Send(),))).enter().told(200, result(["e1"]))
    right = stored(result(["e1"]), notes={("T", "p-0"): ["e1"]})
    assert [] == rules(story, right)
    assert ["a wrong result"] == rules(story, replace(right, notes={("T", "p-0"): ids}))


@pytest.mark.parametrize(
    ("value", "children", "expected"),
    [
        ({"called": "p-0", "of": "T"}, 1, []),
        ({"called": "p-0", "of": "U"}, 1, ["a wrong result"]),
        ({"called": "p-0", "of": "T"}, 2, ["one call, two runs"]),
    ],
)
def test_a_child_run(value: object, children: int, expected: list[str]) -> None:
    """It gives the response of one child run; a second one must not have begun."""
    body = result(value)
    story = Story(InSequence((Call(5),))).enter().told(200, body)
    facts = stored(body)
    answers = {f"child-{n}": b'{"called":"p-0","of":"T"}' for n in range(children)}
    facts = replace(
        facts,
        phases={**facts.phases, **dict.fromkeys(answers, "completed")},
        results={**facts.results, **answers},
    )
    assert expected == rules(story, facts)


def _streamed(items: list[Any]) -> Story:
    return good().add("streamed", status=200, body=GOOD, items=items)


FIRST, SECOND = ["p-0", "a", 0], ["p-0", "a", 1]


def test_a_stream_that_is_the_truth() -> None:
    """It has the chunks of the attempts in the result, each once and in order."""
    assert [] == rules(_streamed([FIRST, SECOND]), stored())


@pytest.mark.parametrize(
    "items",
    [
        [],
        [FIRST],
        [SECOND, FIRST],
        [FIRST, SECOND, SECOND],
        [["p-0", "void", 0], FIRST, SECOND],
        [FIRST, SECOND, ["p-1", "b", 0]],
    ],
)
def test_a_stream_that_is_not_the_truth(items: list[Any]) -> None:
    """A chunk is missing, doubled, out of place, void, or of nobody."""
    assert ["a stream is not the truth"] == rules(_streamed(items), stored())


def test_a_stream_out_of_order() -> None:
    """The chunks of a step come after those of the steps before it."""
    program = InSequence((Work(1, chunks=1), Work(1, chunks=1)))
    story = Story(program).enter().step("p-0", "a").step("p-1", "b")
    story.add("streamed", status=200, body=GOOD, items=[["p-1", "b", 0], ["p-0", "a", 0]])
    assert ["a stream is out of order"] == rules(story, stored())


# -- clients and the store ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "rule"), [("suspended", "a run is stuck"), ("failed", "a run failed")]
)
def test_a_run_that_does_not_complete(phase: str, rule: str) -> None:
    """It has not ended, or failed, and its client was told nothing yet."""
    assert [rule] == rules(good().add("left"), stored(phase=phase))


def test_an_acknowledged_result_is_lost() -> None:
    """A client got a result that is not in the store."""
    other = result({"attempt": "a"}, {"attempt": "b"}, 3)
    assert "an acknowledged result is lost" in rules(good().told(200, other), stored())


def test_an_acknowledged_run_is_lost() -> None:
    """A client was redirected to a run that is not in the store."""
    assert ["an acknowledged run is lost", "a wrong answer"] == rules(
        good().told(302).told(410, "gone"), stored(None)
    )


def test_one_request_has_two_runs() -> None:
    """Each request for a run begins one."""
    both = StoreFacts(
        phases={"R": "completed", "S": "completed"},
        results={"R": GOOD.encode(), "S": GOOD.encode()},
        notes={},
    )
    assert ["one request, two runs"] == rules(good().told(200, GOOD), both)


def test_a_run_of_nobody() -> None:
    """The store has a run that no client asked for."""
    other = StoreFacts(phases={"R": "completed"}, results={"R": b'{"trip": "U"}'}, notes={})
    assert "a run of nobody" in rules(Story().told(503), other)


@pytest.mark.parametrize("status", [404, 410, 500])
def test_a_wrong_answer(status: int) -> None:
    """No request ends in an error but with 503."""
    assert ["a wrong answer"] == rules(good().told(status, "?"), stored())
    assert [] == rules(good().told(503), stored())


def test_a_client_without_an_answer() -> None:
    """It was sent on, and never told how the run ended."""
    assert ["a client has no answer"] == rules(good().told(302), stored())


def test_a_stream_that_is_cut() -> None:
    """A reader's connection ended without a response, and it could not go on."""
    assert ["a client was not led on"] == rules(good().add("cut", error="?"), stored())


def test_a_broken_connection() -> None:
    """It breaks when its process is killed, and not otherwise."""
    assert ["a connection broke"] == rules(good().add("broken", error="?"), stored())
    killed = good().chaos("kill").add("broken", error="?")
    assert [] == rules(killed, stored())
    elsewhere = good().chaos("kill", server="http://127.0.0.1:2").add("broken", error="?")
    assert ["a connection broke"] == rules(elsewhere, stored())


def test_a_connection_breaks_at_a_stop() -> None:
    """A process that stops may refuse a client, but not one whose handler was entered."""
    refused = Story().chaos("terminate").add("broken", error="?")
    assert [] == rules(refused, stored(None))
    dropped = good().chaos("terminate").add("broken", error="?")
    assert ["a connection broke"] == rules(dropped, stored())


def test_a_process_that_does_not_stop() -> None:
    """It was told to, and had to be killed."""
    story = good().told(200, GOOD).chaos("would-not-stop")
    assert ["a process does not stop"] == rules(story, stored())


# -- runs that fail or are cancelled -----------------------------------------------------------


def problem(*undone: str, not_undone: Sequence[str] = ()) -> str:
    """Return the body of the response of a run that does not end by its result."""
    return json.dumps({"detail": "why", "undone": undone, "not_undone": not_undone})


def undone_store(phase: str, body: str, *steps: str) -> StoreFacts:
    return replace(stored(body, phase=phase), steps={"R": steps})


def ended(end: str, *undone: str) -> Story:
    """Return a run with two steps whose client was redirected, and of which these are undone."""
    return Story(end=end).enter().step("p-0", "a").step("p-1", "b").told(302).undo(*undone)


BOTH = ("p-0", "p-1", "(failed)", "(undo) p-1", "(undo) p-0")


def test_a_run_that_fails_and_is_undone() -> None:
    """It is expected to fail, and its client to be told so."""
    body = problem("p-1", "p-0")
    story = ended("fail", "p-1", "p-0").told(500, body)
    assert [] == rules(story, undone_store("failed", body, *BOTH))
    assert ["a run failed"] == rules(
        ended("", "p-1", "p-0").told(302), undone_store("failed", body, *BOTH)
    )[:1]
    assert "a run is stuck" in rules(story, replace(stored(GOOD), phases={"R": "suspended"}))
    assert "a run has completed" in rules(story, stored(GOOD))


def test_undoing_that_is_not_complete() -> None:
    """A step that has succeeded is left out, or could not be undone."""
    short, failed = problem("p-1"), problem("p-1", not_undone=["p-0"])
    for body in (short, failed):
        story = ended("fail", "p-1").told(500, body)
        assert ["undoing is not complete"] == rules(story, undone_store("failed", body, *BOTH))


def test_undoing_that_is_not_the_truth() -> None:
    """The response names a step that nobody has undone, or leaves one out that was undone."""
    body = problem("p-1", "p-0")
    story = ended("fail", "p-1").told(500, body)
    assert ["undoing is not the truth"] == rules(story, undone_store("failed", body, *BOTH))


def test_undoing_out_of_order() -> None:
    """The last step is undone first."""
    body = problem("p-0", "p-1")
    story = ended("fail", "p-0", "p-1").told(500, body)
    assert ["undoing is out of order"] == rules(story, undone_store("failed", body, *BOTH))


def test_a_run_that_its_client_cancels() -> None:
    """Once the server has said so, it is cancelled; before that it may also complete."""
    body = problem("p-1", "p-0")
    asked = ended("cancel", "p-1", "p-0").add("cancel")
    told = ended("cancel", "p-1", "p-0").add("cancel").add("cancelled", status=202).told(410, body)
    store = undone_store("cancelled", body, *BOTH)
    assert [] == rules(told, store)
    assert [] == rules(asked.told(410, body), store)
    late = good().told(302).add("cancel").add("cancelled", status=409).told(200, GOOD)
    late.lines[0]["end"] = "cancel"
    assert [] == rules(late, stored())
    assert "a run has completed" in rules(told, stored())
    assert "a run was cancelled" in rules(ended("cancel", "p-1", "p-0").told(302), store)


def test_a_child_is_cancelled_with_its_parent() -> None:
    """A child of a run that ends as planned may be cancelled; one of another run may not."""
    body = problem("p-1", "p-0")
    store = undone_store("failed", body, *BOTH)
    store = replace(
        store,
        phases={**store.phases, "C": "cancelled"},
        results={**store.results, "C": b"{}"},
        parents={"C": "R"},
    )
    assert [] == rules(ended("fail", "p-1", "p-0").told(500, body), store)
    completed = replace(stored(), phases={"R": "completed", "C": "cancelled"}, parents={"C": "R"})
    assert ["a run was cancelled"] == rules(good().told(200, GOOD), completed)
