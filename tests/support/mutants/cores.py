"""Servers whose core is broken: what it makes of handlers, and of parallel steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from durable_core import Durable, Response
from durable_core.ports import Checkpoint
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.sync import step
from support.mutants.base import Mutant, Mutants, find
from support.mutants.runs import committing, only_runs

__all__ = ["MUTANTS"]

_Handler = Callable[[Any], Any]


def serving(
    change: Callable[[_Handler], _Handler],
    answer: Callable[[Response], Response] = lambda response: response,
) -> Callable[[Durable[Any]], None]:
    """Change the handlers that serve clients, and then what the engine answers."""

    def start(durable: Durable[Any]) -> None:
        engine: Any = durable.engine
        serve = engine.serve

        def changed(endpoint: RegisteredEndpoint, request: Any, route: str | None) -> Response:
            broken = replace(endpoint, handler=change(endpoint.handler))
            return answer(serve(broken, request, route))

        engine.serve = changed

    return start


def _believing() -> Callable[[Durable[Any]], None]:
    """Answer with what a handler returned, although it was to be suspended."""
    latest = threading.local()

    def remember(handler: _Handler) -> _Handler:
        latest.value = None

        def remembering(request: Any) -> Any:
            latest.value = handler(request)
            return latest.value

        return remembering

    def believe(response: Response) -> Response:
        is_late = response.status in (302, 303) and latest.value is not None
        return Response.from_value(latest.value) if is_late else response

    return serving(remember, believe)


def _recording(handler: _Handler) -> _Handler:
    """Have every handler begin with a step."""

    def recording(request: Any) -> Any:
        step.run("hidden", lambda: None)
        return handler(request)

    return recording


def _misnamed(write: Checkpoint) -> Checkpoint:
    return replace(write, create=write.create and replace(write.create, function_id="another"))


def _mixing_up() -> Callable[[Checkpoint], Checkpoint]:
    """Store each step's result as that of the step that ended after it."""
    latest: dict[str, str] = {}

    def mix_up(write: Checkpoint) -> Checkpoint:
        memos = []
        for memo in write.memos:
            memos.append(replace(memo, value=latest.get(write.run_id, memo.value)))
            latest[write.run_id] = memo.value
        return replace(write, memos=tuple(memos))

    return mix_up


#: See ``base.Mutants``.
MUTANTS: Mutants = {
    "believes_suspended_handlers": (Mutant(start=_believing()), ("L9",)),
    "mixes_up_parallel_steps": (
        Mutant(declares="async-handlers", start=committing(only_runs(_mixing_up()))),
        ("L10",),
    ),
    "misnames_runs": (Mutant(start=committing(only_runs(_misnamed))), ("L12",)),
    "records_everything": (Mutant(start=serving(_recording)), ("L13",)),
}


def __getattr__(name: str) -> Mutant:
    return find(MUTANTS, name)
