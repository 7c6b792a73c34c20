"""The application of the soak: a ``def`` and an ``async def`` endpoint that play programs.

It is set up by the environment: ``SOAK_FOLDER`` (store, journal and clock), ``SOAK_ADAPTER``
(the module of the adapter), ``SOAK_MUTANT`` (see :mod:`soak.mutants`), ``SOAK_HEARTBEAT`` and
``SOAK_LEASE``.
"""

from __future__ import annotations

import asyncio
import faulthandler
import hashlib
import importlib
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from durable_core import (
    Durable,
    Event,
    Limits,
    NonRetriableError,
    Request,
    RetryPolicy,
    Settings,
    StepError,
    run,
    step,
    sync,
)
from durable_core.engines import EmbeddedEngine
from durable_core.sync import stream
from soak.clock import ShiftedClock
from soak.journal import Journal
from soak.mutants import make_store
from soak.programs import Branches, Call, Nap, Own, Program, Send, Sequence, Wait, Work, load

__all__ = ["application", "durable"]

#: Each step has so many attempts, and the pauses between them are short.
RETRIES = 5
#: Longer than the clocks jump.
_NEVER = "30 days"
#: For so long a client may cancel a run that has done its work, seconds.
_LAST_NAP = 2.0

_FOLDER = Path(os.environ["SOAK_FOLDER"])
_JOURNAL = Journal(_FOLDER / "journal")
#: Has a file for each step that could not be undone at first.
_UNDO_FAILED = _FOLDER / "undo-failed"
_UNDO_FAILED.mkdir(exist_ok=True)
_ADAPTER = importlib.import_module(os.environ["SOAK_ADAPTER"])

faulthandler.register(signal.SIGUSR1)
logging.basicConfig(
    level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
)

durable: Durable[Any] = Durable(
    id="soak",
    endpoint_adapter=_ADAPTER.endpoint_adapter,
    engine=EmbeddedEngine(
        make_store(os.environ.get("SOAK_MUTANT", ""), _FOLDER / "soak.db"),
        token_ttl=_NEVER,
        clock=ShiftedClock(_FOLDER / "clock"),
        settings=Settings(
            heartbeat=float(os.environ.get("SOAK_HEARTBEAT", "0.6")),
            lease=float(os.environ.get("SOAK_LEASE", "3")),
            busy_timeout=2.0,
        ),
    ),
    retry=RetryPolicy(base="40ms", max="400ms"),
    limits=Limits(crashes=1_000),
)


Undo: TypeAlias = Callable[[Any], object]


class Steps(Protocol):
    """What a program asks for. In a ``def`` handler no method gives way to others."""

    async def pause(self, seconds: float) -> None: ...
    async def run(
        self, path: str, undo: Undo | None, function: Callable[..., Any], *args: object
    ) -> Any: ...
    async def sleep(self, path: str, seconds: float) -> None: ...
    async def wait(self, path: str, timeout: str) -> Any: ...
    async def send(self, path: str, event: Event) -> list[str]: ...
    async def call(self, path: str, asked: object) -> Any: ...
    async def branch(self, parts: list[Coroutine[Any, Any, Any]]) -> list[Any]: ...


class _Blocking:
    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    async def run(
        self, path: str, undo: Undo | None, function: Callable[..., Any], *args: object
    ) -> Any:
        return sync.step.options(undo=undo).run(path, function, *args)

    async def sleep(self, path: str, seconds: float) -> None:
        sync.step.sleep(path, seconds)

    async def wait(self, path: str, timeout: str) -> Any:
        came = sync.step.wait_for_event(path, event=path, match="data.trip", timeout=timeout)
        return came and came.data

    async def send(self, path: str, event: Event) -> list[str]:
        return list(sync.step.send_event(path, event))

    async def call(self, path: str, asked: object) -> Any:
        return sync.step.invoke(path, answer, asked, result=dict)

    async def branch(self, parts: list[Coroutine[Any, Any, Any]]) -> list[Any]:
        try:
            return [await part for part in parts]
        finally:
            for part in parts:
                part.close()  # those after one that was suspended have not begun


class _Awaiting:
    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def run(
        self, path: str, undo: Undo | None, function: Callable[..., Any], *args: object
    ) -> Any:
        return await step.options(undo=undo).run(path, function, *args)

    async def sleep(self, path: str, seconds: float) -> None:
        await step.sleep(path, seconds)

    async def wait(self, path: str, timeout: str) -> Any:
        came = await step.wait_for_event(path, event=path, match="data.trip", timeout=timeout)
        return came and came.data

    async def send(self, path: str, event: Event) -> list[str]:
        return list(await step.send_event(path, event))

    async def call(self, path: str, asked: object) -> Any:
        return await step.invoke(path, answer, asked, result=dict)

    async def branch(self, parts: list[Coroutine[Any, Any, Any]]) -> list[Any]:
        return list(await asyncio.gather(*parts))


class Player:
    """Plays the program of one execution of one run, and writes what happens to the journal.

    Args:
        trip: names the request that began the run.
        end: how the run ends: "" by its result, "fail" by an error, "cancel" by its client, which
            has some time for it. Its steps are undone unless it is by the result.
        steps: the steps of its kind of handler.
        work: the function of a step, as that kind of handler calls it.
    """

    def __init__(self, trip: str, end: str, steps: Steps, work: Callable[..., Any]) -> None:
        self._trip = trip
        self._end = end
        self._steps = steps
        self._work = work
        self._execution = secrets.token_hex(6)
        self.write("enter", run=run.id)

    def write(self, what: str, **facts: object) -> None:
        """Write a line about this execution."""
        _JOURNAL.write(what, trip=self._trip, execution=self._execution, **facts)

    async def play_all(self, program: Program) -> dict[str, Any]:
        """Play the whole program, and return the response, or end the run otherwise."""
        value = await self.play(program, "p", "")
        if self._end == "fail":
            raise NonRetriableError(f"trip {self._trip}")
        if self._end == "cancel":
            await self._steps.sleep("cancel-me", _LAST_NAP)
        return {"trip": self._trip, "value": value}

    async def play(self, program: Program, path: str, seen: str) -> Any:
        """Return what the program gives.

        ``seen`` is a digest of all results that were there before. It must be the same whenever a
        step begins: a result that was stored does not change.
        """
        match program:
            case Sequence(parts):
                values = []
                for n, part in enumerate(parts):
                    values.append(await self.play(part, f"{path}-{n}", seen))
                    seen = _digest(seen, values[-1])
                return values
            case Branches(parts):
                branches = [self.play(part, f"{path}-{n}", seen) for n, part in enumerate(parts)]
                return await self._steps.branch(branches)
            case Own(ms):
                return await self._steps.pause(ms / 1000)
            case Nap(ms):
                return await self._steps.sleep(path, ms / 1000)
            case Wait(answered):
                self.write("ask", path=path)
                return await self._steps.wait(path, _NEVER if answered else "200ms")
            case Send():
                event = Event("note", {"trip": self._trip, "path": path})
                return await self._steps.send(path, event)
            case Call(ms):
                return await self._steps.call(path, {"of": self._trip, "path": path, "ms": ms})
        return await self._attempt(program, path, seen)

    async def _attempt(self, work: Work, path: str, seen: str) -> Any:
        self.write("ask", path=path)
        undo = partial(_undo, self, work, path) if self._end else None
        try:
            return await self._steps.run(path, undo, self._work, self, work, path, seen)
        except StepError:
            return "failed"


#: How often this process has let a step fail, until it succeeds.
_failed: dict[tuple[str, str], int] = {}


def _begin(player: Player, work: Work, path: str, seen: str) -> str:
    """Write that the step's function begins; return the name of this attempt."""
    attempt = secrets.token_hex(6)
    player.write("begin", path=path, seen=seen, attempt=attempt)
    return attempt


def _end(player: Player, work: Work, path: str, attempt: str) -> dict[str, str]:
    """Fail as often as the program says, in this process; then return the attempt's name."""
    key = (player._trip, path)
    if _failed.get(key, 0) < work.failures:
        _failed[key] = _failed.get(key, 0) + 1
        player.write("fail", path=path, attempt=attempt)
        raise RuntimeError(f"attempt {attempt} fails")
    _failed.pop(key, None)
    player.write("end", path=path, attempt=attempt)
    return {"attempt": attempt}


def _work(player: Player, work: Work, path: str, seen: str) -> dict[str, str]:
    attempt = _begin(player, work, path, seen)
    for n in range(work.chunks):
        stream.push([path, attempt, n])
    time.sleep(work.ms / 1000)
    return _end(player, work, path, attempt)


async def _work_async(player: Player, work: Work, path: str, seen: str) -> dict[str, str]:
    attempt = _begin(player, work, path, seen)
    for n in range(work.chunks):
        stream.push([path, attempt, n])
    await asyncio.sleep(work.ms / 1000)
    return _end(player, work, path, attempt)


def _undo(player: Player, work: Work, path: str, result: dict[str, str]) -> None:
    """Write that a step is undone; of a step that fails, the first call of all processes fails.

    If the first call of each process did, so many processes could come one after the other that no
    attempt is left.
    """
    if work.failures:
        try:
            (_UNDO_FAILED / f"{player._trip} {path}").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            raise RuntimeError(f"{path} cannot be undone now")
    player.write("undo", path=path, attempt=result["attempt"])


def _digest(seen: str, value: object) -> str:
    return hashlib.sha256(f"{seen}{json.dumps(value)}".encode()).hexdigest()[:12]


@durable.endpoint(retries=RETRIES, allow_cancel=True)
def play_sync(request: Request) -> dict[str, Any]:
    """Play the program of the request."""
    player = Player(request.query["trip"], request.query["end"], _Blocking(), _work)
    playing = player.play_all(load(request.json()))
    try:
        playing.send(None)
    except StopIteration as done:
        response: dict[str, Any] = done.value
        return response
    raise AssertionError("a step of a def handler gave way")


@durable.endpoint(retries=RETRIES, allow_cancel=True)
async def play_async(request: Request) -> dict[str, Any]:
    """Play the program of the request."""
    player = Player(request.query["trip"], request.query["end"], _Awaiting(), _work_async)
    return await player.play_all(load(request.json()))


@durable.endpoint(retries=RETRIES)
def answer(request: Request) -> dict[str, Any]:
    """Take a while, in a child run."""
    asked = request.json()
    sync.step.run("pause", time.sleep, asked["ms"] / 1000)
    return {"called": asked["path"], "of": asked["of"]}


def _health(request: Request) -> dict[str, Any]:
    return durable.health()


application: Any = None
if hasattr(_ADAPTER, "app"):
    application = _ADAPTER.app(
        durable,
        {
            "POST /sync": play_sync,
            "POST /async": play_async,
            "POST /events": durable.events_endpoint(public=True),
            "GET /health": _health,
        },
    )
