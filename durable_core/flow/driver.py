"""The two drivers: they run a flow to its end, answering each Ask through ``perform``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import CoroutineType
from typing import Any, TypeVar

from durable_core.flow.effects import Ask, Flow

__all__ = ["drive_async", "drive_sync"]

T = TypeVar("T")


def drive_sync(
    flow: Flow[T], perform: Callable[[Ask], Any], lock: AbstractContextManager[object]
) -> T:
    """Run the flow in this thread.

    The flow's own code runs under the lock (several threads may drive flows of one run), and so do
    the Asks that do not wait: what one flow decided first is also queued first.
    """
    resume: Callable[[Any], Ask] = flow.send
    value: Any = None
    while True:
        with lock:
            try:
                ask = resume(value)
                while not ask.waits:
                    try:
                        value = perform(ask)
                    except BaseException as error:
                        ask = flow.throw(error)
                    else:
                        ask = flow.send(value)
            except StopIteration as stop:
                result: T = stop.value
                return result
        try:
            value = perform(ask)
            resume = flow.send
        except BaseException as error:
            value = error
            resume = flow.throw


async def drive_async(flow: Flow[T], perform: Callable[[Ask], Any]) -> T:
    """Run the flow in this task.

    An Ask that waits is answered through a coroutine, or by the answer itself if that is there.
    """
    resume: Callable[[Any], Ask] = flow.send
    value: Any = None
    while True:
        try:
            ask = resume(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            value = perform(ask)
            if type(value) is CoroutineType:
                value = await value
            resume = flow.send
        except BaseException as error:
            value = error
            resume = flow.throw
