"""The judge of a soak: it reads the journal and the store, and names what may not be.

It knows nothing of the engine. What it holds the engine to is what the guarantees page promises.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soak.journal import Line
from soak.programs import Branches, Call, Nap, Own, Program, Send, Wait, Work, load, predecessors
from soak.programs import Sequence as InSequence
from soak.programs import leaves as _leaves

__all__ = ["StoreFacts", "Tally", "Violation", "judge"]

#: The status of a run that does not end by its result.
_END_STATUS = {"fail": 500, "cancel": 410}
#: What is wrong with a run that has ended otherwise than planned.
_RULES = {
    "completed": "a run has completed",
    "failed": "a run failed",
    "cancelled": "a run was cancelled",
}
#: Attempts that a step has at most, without crashes.
_ATTEMPTS = 6


@dataclass(frozen=True, slots=True)
class Violation:
    """What may not be, with the trip that it happened to."""

    rule: str
    trip: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: trip {self.trip}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """What is in the store at the end.

    Attributes:
        phases: of each run, by its id.
        results: the body of each ended run, by the run's id.
        notes: the ids of the stored events that programs have sent, by trip and path.
        steps: the names of the steps of each run that have succeeded, in their order.
        parents: the run that each child run was called by.
    """

    phases: Mapping[str, str]
    results: Mapping[str, bytes]
    notes: Mapping[tuple[str, str], Sequence[str]]
    steps: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What the soak amounted to."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    broken: int = 0
    redirected: int = 0
    streams: int = 0
    attempts: int = 0
    executions: int = 0
    events: int = 0
    in_the_gap: int = 0
    failed: int = 0
    cancelled: int = 0
    undone: int = 0


@dataclass(slots=True)
class _Downtime:
    """When the processes were killed, stopped and frozen."""

    kills: list[tuple[str, float]] = field(default_factory=list)
    stops: list[tuple[str, float]] = field(default_factory=list)
    freezes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: Iterable[Line]) -> _Downtime:
        self = cls()
        frozen: dict[int, int] = {}
        for place, line in enumerate(lines):
            match line["what"]:
                case "kill" | "found-dead" | "would-not-stop":
                    self.kills.append((line["server"], line["at"]))
                case "terminate" | "stopped":
                    self.stops.append((line["server"], line["at"]))
                case "freeze":
                    frozen[line["target"]] = place
                case "thaw":
                    span = frozen.pop(line["target"]), place
                    self.freezes.setdefault(line["target"], []).append(span)
        return self

    def was_killed(self, url: str, begin: float, end: float) -> bool:
        """Return whether the server of a URL was killed within that time."""
        return any(url.startswith(server) and begin <= at <= end for server, at in self.kills)

    def was_stopped(self, url: str, begin: float, end: float) -> bool:
        """Return whether that server stopped, or was away, within that time or just before."""
        gone = (*self.stops, *self.kills)
        return any(url.startswith(server) and begin - 30 <= at <= end for server, at in gone)

    def fell_between(self, pid: int, begin: int, end: int) -> bool:
        """Return whether a process was frozen after the one line and thawed before the other.

        The places of the lines tell. A process may be frozen when it has read the time of a line
        and has not written the line yet.
        """
        spans = self.freezes.get(pid, ())
        return any(begin < frozen and thawed < end for frozen, thawed in spans)


class _Trip:
    """All lines about one request for a run, in order."""

    def __init__(self, sent: Line) -> None:
        self.name: str = sent["trip"]
        self.sent = sent
        self.end: str = sent.get("end", "")
        self.program: Program = load(sent["program"])
        self.before = predecessors(self.program, sequential=sent["kind"] == "sync")
        self.lines: list[Line] = []
        self.places: list[int] = []  # of these lines in the journal

    def add(self, line: Line, place: int) -> None:
        """Add the line at that place of the journal."""
        self.lines.append(line)
        self.places.append(place)

    def of_kind(self, *kinds: str) -> Iterator[Line]:
        return (line for line in self.lines if line["what"] in kinds)


def judge(lines: Sequence[Line], store: StoreFacts) -> tuple[list[Violation], Tally]:
    """Return what is wrong, and what the soak amounted to.

    Args:
        lines: the journal.
        store: what is in the store after all runs had time to end.
    """
    trips: dict[str, _Trip] = {}
    for place, line in enumerate(lines):
        if line["what"] == "sent":
            trips[line["trip"]] = _Trip(line)
        elif "trip" in line:
            trips[line["trip"]].add(line, place)
    down = _Downtime.of(lines)
    tally = _count(lines)
    owners = {
        line["run"]: trip
        for trip in trips.values()
        for line in trip.of_kind("enter")
        if "run" in line
    }
    found = list(_judge_store(store, trips, owners))
    found.extend(
        Violation("a process does not stop", "-", f"{line['kind']}, process {line['target']}")
        for line in lines
        if line["what"] == "would-not-stop"
    )
    results = _results_by_trip(store)
    for run, trip in owners.items():
        if store.phases.get(run) in ("failed", "cancelled"):
            results[trip.name].append((run, store.results[run]))
            found.extend(_judge_undoing(trip, run, store))
    for trip in trips.values():
        found.extend(_judge_begins(trip, down, tally))
        found.extend(_judge_seen(trip))
        found.extend(_judge_answers(trip, down, results.get(trip.name, [])))
        for run, body in results.get(trip.name, []):
            if store.phases[run] == "completed":
                found.extend(_judge_result(trip, body, store))
    return found, tally


def _count(lines: Iterable[Line]) -> Tally:
    tally = Tally()
    for line in lines:
        match line["what"]:
            case "sent":
                tally.sent += 1
            case "enter":
                tally.executions += 1
            case "begin":
                tally.attempts += 1
            case "event":
                tally.events += 1
            case "undo":
                tally.undone += 1
            case "cancelled" if line["status"] in (202, 204):
                tally.cancelled += 1
            case "told" | "streamed" if line["status"] == 500:
                tally.failed += 1
            case "broken":
                tally.broken += 1
            case "streamed":
                tally.streams += 1
            case "told" if line["status"] == 503:
                tally.refused += 1
            case "told" if line["status"] in (202, 302, 303):
                tally.redirected += 1
            case "told":
                tally.answered += 1
    return tally


# --- the store ------------------------------------------------------------------------------------


def _judge_store(
    store: StoreFacts, trips: Mapping[str, _Trip], owners: Mapping[str, _Trip]
) -> Iterator[Violation]:
    """Every run has ended as its trip says, and each trip has one run."""
    for run, phase in store.phases.items():
        if not _may_end(run, phase, store, owners):
            rule = _RULES.get(phase, "a run is stuck")
            detail = f"run {run} is {phase}; {store.results.get(run, b'').decode()}"
            yield Violation(rule, "-", detail)
    for name, results in _results_by_trip(store).items():
        if name not in trips:
            yield Violation("a run of nobody", name, "the store has a result for it")
        if len(results) > 1:
            runs = ", ".join(run for run, _ in results)
            yield Violation("one request, two runs", name, runs)
    for (name, path), children in _children(store).items():
        if len(children) > 1:
            yield Violation("one call, two runs", name, f"{path}: {', '.join(children)}")


def _may_end(run: str, phase: str, store: StoreFacts, owners: Mapping[str, _Trip]) -> bool:
    """Tell whether a run may be in a phase. A child is cancelled with its parent."""
    root = store.parents.get(run, run)
    trip = owners.get(root)
    end = "" if trip is None else trip.end
    if root != run:
        return phase == "completed" or (phase == "cancelled" and bool(end))
    if phase == "failed":
        return end == "fail"
    if trip is None or end != "cancel":
        return phase == "completed" and end != "fail"
    acknowledged = any(line["status"] in (202, 204) for line in trip.of_kind("cancelled"))
    was_asked = any(True for _ in trip.of_kind("cancel"))
    return (phase == "cancelled" and was_asked) or (phase == "completed" and not acknowledged)


def _judge_undoing(trip: _Trip, run: str, store: StoreFacts) -> Iterator[Violation]:
    """Each step that has succeeded is undone, the last one first, and the response says so."""
    works = {path for path, leaf in _leaves(trip.program, "p") if isinstance(leaf, Work)}
    stored = [name for name in store.steps.get(run, ()) if name in works]
    problem = json.loads(store.results[run])
    undone = list(problem.get("undone", ()))
    done = {line["path"] for line in trip.of_kind("undo")}
    if sorted(undone) != sorted(stored) or problem.get("not_undone"):
        detail = f"run {run}: stored are {stored}; the response says {problem}"
        yield Violation("undoing is not complete", trip.name, detail)
    elif done != set(undone):
        detail = f"run {run}: {sorted(done)} were undone, the response says {undone}"
        yield Violation("undoing is not the truth", trip.name, detail)
    for n, path in enumerate(undone):
        late = [each for each in undone[n + 1 :] if path in trip.before[each]]
        if late:
            yield Violation("undoing is out of order", trip.name, f"{late} after {path}")


def _results_by_trip(store: StoreFacts) -> dict[str, list[tuple[str, bytes]]]:
    found: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for run, body in store.results.items():
        if store.phases.get(run) == "completed" and "trip" in (result := json.loads(body)):
            found[result["trip"]].append((run, body))
    return found


def _children(store: StoreFacts) -> dict[tuple[str, str], list[str]]:
    """Return the child runs by the step that has called each."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run, body in store.results.items():
        if store.phases.get(run) == "completed" and "called" in (result := json.loads(body)):
            found[result["of"], result["called"]].append(run)
    return found


# --- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _LateBegin:
    """A step that an execution has begun once a later execution of its run had been entered.

    Attributes:
        line: of the step.
        entered: the later execution.
        in_the_gap: the process was frozen, and thawed, between what it did last in this branch,
            which was to ask for the step, or to fail in it, and the function. It is the first that
            the branch does when it goes on. The engine had looked at the lease before, and nobody
            can rule that out. A freeze before that is no excuse: then the look comes after it. A
            step that this execution itself has ended has no excuse.
    """

    line: Line
    entered: str
    in_the_gap: bool


def _late_begins(trip: _Trip, down: _Downtime) -> Iterator[_LateBegin]:
    order: list[str] = []
    last: dict[tuple[str, str], tuple[Line, int]] = {}
    ended: set[tuple[str, str]] = set()
    for line, place in zip(trip.lines, trip.places, strict=True):
        if line["what"] not in ("enter", "ask", "begin", "fail", "end"):
            continue
        execution = line["execution"]
        if line["what"] == "enter":
            order.append(execution)
        elif line["what"] == "begin" and execution != order[-1]:
            before, begun = last[execution, line["path"]]
            is_frozen = down.fell_between(line["pid"], begun, place)
            may_begin = before["what"] != "begin" and (execution, line["path"]) not in ended
            yield _LateBegin(line, order[-1], is_frozen and may_begin)
        if line["what"] == "end":
            ended.add((execution, line["path"]))
        elif "path" in line:
            last[execution, line["path"]] = line, place


def _judge_begins(trip: _Trip, down: _Downtime, tally: Tally) -> Iterator[Violation]:
    """One execution at a time begins steps, and each step before later ones.

    What is in the gap breaks both rules, and is counted.
    """
    late = list(_late_begins(trip, down))
    in_the_gap = [each.line for each in late if each.in_the_gap]
    tally.in_the_gap += len(in_the_gap)
    for line, later in _reruns(trip):
        if not any(line is each for each in in_the_gap):
            detail = f"{line['path']} began in process {line['pid']} after {later} had begun"
            yield Violation("a step ran again", trip.name, detail)
    for each in late:
        if not each.in_the_gap:
            line = each.line
            detail = (
                f"{line['path']} began in process {line['pid']} in execution "
                f"{line['execution']}, after execution {each.entered} had been entered"
            )
            yield Violation("two owners", trip.name, detail)


def _reruns(trip: _Trip) -> Iterator[tuple[Line, str]]:
    """Yield each step that began once a later one of its run had begun, and which that was."""
    closed: dict[str, str] = {}
    for line in trip.of_kind("begin"):
        path = line["path"]
        if path in closed:
            yield line, closed[path]
        for earlier in trip.before[path]:
            closed.setdefault(earlier, path)


def _judge_seen(trip: _Trip) -> Iterator[Violation]:
    """Whenever a step begins, the results before it are the same."""
    seen: dict[str, str] = {}
    for line in trip.of_kind("begin"):
        first = seen.setdefault(line["path"], line["seen"])
        if line["seen"] != first:
            detail = f"before {line['path']}, in process {line['pid']}"
            yield Violation("a stored result changed", trip.name, detail)


# --- clients --------------------------------------------------------------------------------------


def _judge_answers(
    trip: _Trip, down: _Downtime, results: Sequence[tuple[str, bytes]]
) -> Iterator[Violation]:
    """What a client was told is so, and each client was told something."""
    stored = {body.decode() for _, body in results}
    was_answered = False
    for line in trip.lines:
        match line["what"]:
            case "told" | "streamed":
                was_answered = was_answered or line["status"] not in (202, 302, 303)
                yield from _judge_told(trip, line, stored)
            case "broken":
                was_answered = True
                yield from _judge_broken(trip, line, down)
            case "left":
                was_answered = True
            case "cut" | "unanswered":
                was_answered = True
                yield Violation("a client was not led on", trip.name, line["error"])
    if not was_answered:
        yield Violation("a client has no answer", trip.name, "it was told nothing final")


def _judge_told(trip: _Trip, line: Line, stored: set[str]) -> Iterator[Violation]:
    if line["status"] in (202, 302, 303):
        if not stored:
            yield Violation("an acknowledged run is lost", trip.name, "its client was redirected")
    elif line["status"] == 200 or line["status"] == _END_STATUS.get(trip.end):
        body = line["body"]
        if line["what"] == "streamed" and line["status"] == 500:
            body, stored = json.loads(body), {json.loads(each)["detail"] for each in stored}
        if body not in stored and not _has_no_steps(trip):
            yield Violation("an acknowledged result is lost", trip.name, line["body"])
    elif line["status"] != 503:
        yield Violation("a wrong answer", trip.name, f"{line['status']}: {line['body']}")
    if line["what"] == "streamed" and line["status"] == 200:
        yield from _judge_stream(trip, line)


def _has_no_steps(trip: _Trip) -> bool:
    """Return whether such a run leaves no record: it has no step at all."""
    return not any(True for _ in _stored_leaves(trip.program))


def _stored_leaves(program: Program) -> Iterator[Program]:
    if isinstance(program, InSequence | Branches):
        for part in program.parts:
            yield from _stored_leaves(part)
    elif not isinstance(program, Own):
        yield program


def _judge_broken(trip: _Trip, line: Line, down: _Downtime) -> Iterator[Violation]:
    """A connection breaks without an answer only when its process was killed.

    A process that stops refuses those that come too late: their handlers were never entered.
    """
    url, begin, end = trip.sent["url"], trip.sent["at"], line["at"]
    if down.was_killed(url, begin - 0.1, end + 0.1):
        return
    entered = any(True for _ in trip.of_kind("enter"))
    if entered or not down.was_stopped(url, begin, end):
        yield Violation("a connection broke", trip.name, line["error"])


# --- results --------------------------------------------------------------------------------------


def _judge_result(trip: _Trip, body: bytes, store: StoreFacts) -> Iterator[Violation]:
    """The result is what the program gives, made of attempts that really ended.

    An attempt in the gap is none of them if a later step had begun: that had seen another result.
    """
    ended = {(line["path"], line["attempt"]) for line in trip.of_kind("end")}
    ended -= {(line["path"], line["attempt"]) for line, _ in _reruns(trip)}
    failures: dict[str, int] = defaultdict(int)
    for line in trip.of_kind("fail"):
        failures[line["path"]] += 1

    def check(node: Program, path: str, value: Any) -> Iterator[str]:
        match node:
            case InSequence(parts) | Branches(parts):
                if not isinstance(value, list) or len(value) != len(parts):
                    yield f"{path} has {value!r}"
                    return
                for n, (part, each) in enumerate(zip(parts, value, strict=True)):
                    yield from check(part, f"{path}-{n}", each)
            case Work():
                done = value == "failed" and failures[path] >= _ATTEMPTS
                done = done or (isinstance(value, dict) and (path, value.get("attempt")) in ended)
                if not done:
                    yield f"{path} has {value!r}, which no attempt of it returned in time"
            case Wait(answered):
                token = f"{trip.name}/{path}/"
                if answered != (value is not None and value["token"].startswith(token)):
                    yield f"{path} has {value!r}"
            case Send():
                if [value] != [list(store.notes.get((trip.name, path), ()))]:
                    yield f"{path} has {value!r}; stored is {store.notes.get((trip.name, path))}"
            case Call():
                if value != {"called": path, "of": trip.name}:
                    yield f"{path} has {value!r}"
            case Own() | Nap():
                if value is not None:
                    yield f"{path} has {value!r}"

    for detail in check(trip.program, "p", json.loads(body)["value"]):
        yield Violation("a wrong result", trip.name, detail)


def _judge_stream(trip: _Trip, line: Line) -> Iterator[Violation]:
    """The valid chunks are those of the attempts that the result is made of, each once."""
    wanted: dict[str, list[Any]] = {}

    def expect(node: Program, path: str, value: Any) -> None:
        match node:
            case InSequence(parts) | Branches(parts):
                for n, (part, each) in enumerate(zip(parts, value, strict=True)):
                    expect(part, f"{path}-{n}", each)
            case Work(chunks=chunks) if value != "failed" and chunks:
                wanted[path] = [[path, value["attempt"], n] for n in range(chunks)]

    expect(trip.program, "p", json.loads(line["body"])["value"])
    got: dict[str, list[Any]] = {}
    first: list[str] = []
    for item in line["items"]:
        path = item[0]
        got.setdefault(path, []).append(item)
        if path not in first:
            first.append(path)
    if got != wanted:
        wrong = [path for path in {**got, **wanted} if got.get(path) != wanted.get(path)]
        detail = "; ".join(f"{p}: got {got.get(p)}, not {wanted.get(p)}" for p in wrong)
        yield Violation("a stream is not the truth", trip.name, detail)
    for n, path in enumerate(first):
        late = [each for each in first[n + 1 :] if each in trip.before[path]]
        if late:
            yield Violation("a stream is out of order", trip.name, f"{late} after {path}")
