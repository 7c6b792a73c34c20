"""The two drivers of flows: one runs a flow in a thread, one in a task."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import partial
from types import CoroutineType
from typing import Any, ClassVar, Protocol, TypeVar

__all__ = [
    "SomeEffect",
    "ask_again",
    "await_values",
    "drive_async",
    "drive_sync",
    "drive_values",
]

T = TypeVar("T")


class SomeEffect(Protocol):
    """What the drivers need to know of an effect. The test harness has effects of its own."""

    #: Performing it may block the thread, or takes an await.
    waits: ClassVar[bool]


EffectT = TypeVar("EffectT", bound=SomeEffect)


def drive_sync(
    flow: Generator[EffectT, Any, T],
    perform: Callable[[EffectT], Any],
    lock: AbstractContextManager[object],
    answer: object = None,
    error: BaseException | None = None,
) -> T:
    """Run the flow in this thread.

    ``answer`` is that to the effect for which a flow that has begun waits, or ``error`` is raised
    there. The flow's own code runs under the lock (several threads may drive flows of one run), and
    so do the effects that do not wait: what one flow decided first is also queued first.
    """
    send: Callable[[Any], EffectT] = flow.send
    resume: Callable[[Any], EffectT] = send if error is None else flow.throw
    value: Any = answer if error is None else error
    while True:
        with lock:
            try:
                effect = resume(value)
                while not effect.waits:
                    try:
                        value = perform(effect)
                    except BaseException as raised:
                        effect = flow.throw(raised)
                    else:
                        effect = send(value)
            except StopIteration as stop:
                result: T = stop.value
                return result
        try:
            value = perform(effect)
            resume = send
        except BaseException as raised:
            value = raised
            resume = flow.throw


async def drive_async(flow: Generator[EffectT, Any, T], perform: Callable[[EffectT], Any]) -> T:
    """Run the flow in this task.

    An effect that waits is answered through a coroutine, or by the answer itself if that is there.
    """
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = flow.send(value) if error is None else flow.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            value = perform(effect)
            if type(value) is CoroutineType:
                value = await value
            error = None
        except BaseException as raised:
            error = raised


def ask_again(flow: Generator[EffectT, Any, T], effect: EffectT) -> Generator[EffectT, Any, T]:
    """Return what goes on with a flow that waits for the answer to an effect: it asks for it."""
    while True:
        try:
            answer = yield effect
        except BaseException as error:
            go_on: Callable[[], EffectT] = partial(flow.throw, error)
        else:
            go_on = partial(flow.send, answer)
        try:
            effect = go_on()
        except StopIteration as stop:
            result: T = stop.value
            return result


def drive_values(flow: Generator[Any, Any, T]) -> T:
    """Run a flow that performs its effects itself: each ``yield`` gives back what it was given."""
    value: Any = None
    try:
        while True:
            value = flow.send(value)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def await_values(flow: Generator[Any, Any, T]) -> T:
    """As :func:`drive_values`, in this task: ``yield`` awaits the coroutines that it is given."""
    return await drive_async(flow, _itself)


def _itself(value: Any) -> Any:
    return value
