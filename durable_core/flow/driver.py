"""The two drivers: they run a flow to its end, answering each effect through ``perform``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import CoroutineType
from typing import Any, TypeVar

from durable_core.flow.effects import Effect, Flow

__all__ = ["drive_async", "drive_sync"]

T = TypeVar("T")


def drive_sync(
    flow: Flow[T], perform: Callable[[Effect], Any], lock: AbstractContextManager[object]
) -> T:
    """Run the flow in this thread.

    The flow's own code runs under the lock (several threads may drive flows of one run), and so do
    the Asks that do not wait: what one flow decided first is also queued first.
    """
    resume: Callable[[Any], Effect] = flow.send
    value: Any = None
    while True:
        with lock:
            try:
                effect = resume(value)
                while not effect.waits:
                    try:
                        value = perform(effect)
                    except BaseException as error:
                        effect = flow.throw(error)
                    else:
                        effect = flow.send(value)
            except StopIteration as stop:
                result: T = stop.value
                return result
        try:
            value = perform(effect)
            resume = flow.send
        except BaseException as error:
            value = error
            resume = flow.throw


async def drive_async(flow: Flow[T], perform: Callable[[Effect], Any]) -> T:
    """Run the flow in this task.

    An effect that waits is answered through a coroutine, or by the answer itself if that is there.
    """
    resume: Callable[[Any], Effect] = flow.send
    value: Any = None
    while True:
        try:
            effect = resume(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            value = perform(effect)
            if type(value) is CoroutineType:
                value = await value
            resume = flow.send
        except BaseException as error:
            value = error
            resume = flow.throw
