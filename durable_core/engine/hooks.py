"""Functions of the application that are called for a client, such as ``async_redirect_url``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from durable_core.flow.attempt import Call
from durable_core.flow.effects import Outcome, Raised, Returned
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = ["call_hook", "call_hook_async"]


def call_hook(call: Call, run_on_background_loop: Callable[[Awaitable[Any]], Any]) -> Outcome:
    """Call a function, of either kind, in this thread."""
    try:
        value = call.fn(*call.args, **(call.kwargs or {}))
        if inspect.isawaitable(value):
            value = run_on_background_loop(value)
    except Exception as error:
        return Raised(error)
    return Returned(value)


async def call_hook_async(call: Call, threads: DaemonThreadPool) -> Outcome:
    """Call a function, of either kind, without blocking this event loop."""
    kwargs = call.kwargs or {}
    try:
        if inspect.iscoroutinefunction(call.fn):
            return Returned(await call.fn(*call.args, **kwargs))
        loop = asyncio.get_running_loop()
        value = await loop.run_in_executor(threads, lambda: call.fn(*call.args, **kwargs))
        if inspect.isawaitable(value):
            value = await value
    except Exception as error:
        return Raised(error)
    return Returned(value)
