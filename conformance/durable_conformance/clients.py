"""What the cases about clients serve, and how they call it.

All of it is served at once: a server that starts and stops for each case takes longer than they.
A request says which gate is its own, so that calls do not meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from uuid import uuid4

from durable_conformance.contract import AnyResponse, Client
from durable_conformance.programs import CallLog, Gate, Program, Script
from durable_conformance.wire import patience
from durable_core import NonRetriableError, Response, StepError
from durable_core.codec.stream_events import Chunk, Commit, Rollback
from durable_core.sync import stream

__all__ = ["PROGRAMS", "Call"]

_FIELDS = {"x-my-header": "my-value"}
_gates: dict[str, Gate] = {}
_ledger = CallLog()


class Call:
    """One call of a program by a client; a context, at whose end its gate is opened.

    Attributes:
        told: what the client was told, in order: the data of chunks, ``"commit"``, ``"rollback"``.
        gate: what the steps of the program wait at, if it is one with a gate.
        on_data, on_commit: called when the client has been told.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._key = uuid4().hex
        self.told: list[object] = []
        self.gate = Gate()
        self.on_data: Callable[[object], object] = lambda data: None
        self.on_commit: Callable[[], object] = lambda: None

    def __enter__(self) -> Call:
        _gates[self._key] = self.gate
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.open()

    def of(self, host: str, name: str, **options: Any) -> AnyResponse:
        """Call the program of that name."""
        url = f"http://{host}/{name}?key={self._key}"
        return self._client(
            url,
            on_data=self._take_data,
            on_commit=self._take_commit,
            on_rollback=self._take_rollback,
            timeout=patience(),
            **options,
        )

    def _take_data(self, event: Chunk) -> None:
        self.told.append(event.data)
        self.on_data(event.data)

    def _take_commit(self, event: Commit) -> None:
        self.told.append("commit")
        self.on_commit()

    def _take_rollback(self, event: Rollback) -> None:
        self.told.append("rollback")


#: The function of a step, which is given the key of its call.
_Step: TypeAlias = Callable[[str], Any]


def _two(first: _Step, second: _Step, *, nap: bool = False) -> Program:
    """Return a program of two steps; with a nap, the second is executed after the handoff."""

    def program(request: Any, step: Any) -> Script:
        key = request.query["key"]
        yield step.run("a", first, key)
        if nap:
            yield step.sleep("nap", 0.1)
        yield step.run("b", second, key)
        return Response.json("All done", 202, _FIELDS)

    return program


def _silent(key: str) -> int:
    return 1


def _push_a(key: str) -> None:
    stream.push("chunk a")


def _push_b(key: str) -> None:
    stream.push("chunk b")


def _flaky_a(key: str) -> int:
    stream.push("chunk a")
    return _ledger.fail_first(f"a of {key}", 1, RuntimeError("once"))


def _flaky_b(key: str) -> int:
    _gates[key].wait_open(None)
    stream.push("chunk b")
    return _ledger.fail_first(f"b of {key}", 1, RuntimeError("once"))


def _fail(key: str) -> None:
    raise NonRetriableError("oh no", public="oh no")


def _push_and_fail(key: str) -> None:
    stream.push("partial")
    _fail(key)


def _stuck(key: str) -> None:
    stream.push("chunk a")
    _gates[key].wait_open(None)


def _gated(key: str) -> None:
    stream.push("chunk b")
    _gates[key].wait_open(None)
    stream.push("chunk c")


def _catching(request: Any, step: Any) -> Script:
    yield step.sleep("nap", 0.1)
    try:
        yield step.run("a", _fail, "")
    except StepError as error:
        message = error.message
    yield step.sleep("later", 0.1)
    return Response.json(message, 500)


def _echo(request: Any, step: Any) -> Script:
    yield from ()
    return Response.json(request.headers.get("x-custom"))


#: Programs by the names they are served at. Those that end in ``-later`` nap after the first step.
PROGRAMS: Mapping[str, Program] = {
    "quiet": _two(_silent, _silent),
    "quiet-later": _two(_silent, _silent, nap=True),
    "pushing": _two(_push_a, _push_b),
    "pushing-later": _two(_push_a, _push_b, nap=True),
    "flaky": _two(_flaky_a, _flaky_b),
    "failing": _two(_push_and_fail, _silent),
    "catching": _catching,
    "echo": _echo,
    "stuck": _two(_stuck, _silent),
    "gated": _two(_push_a, _gated),
    "gated-later": _two(_push_a, _gated, nap=True),
}
