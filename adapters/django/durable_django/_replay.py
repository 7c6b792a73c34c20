"""A stored request on its way through Django to a coroutine function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from durable_asgi import ASGIApplication, Message, replay_scope, replayed_receive
from durable_core import Request, Response
from durable_core.adapters import NotReachedError, context_outside_run, enter_run
from durable_django._views import View, respond_async

__all__ = ["ASGIReplay"]


class ASGIReplay:
    """A run's request on its way through the application to the run's view, on an event loop.

    The view is called in a task of the run, not in the one that Django has for its request.

    Args:
        request: the stored request.
        function: the view.
        key: of the scope; under it the application finds this.
    """

    def __init__(self, request: Request, function: Callable[..., Any], key: str) -> None:
        self._request = request
        self._function = function
        self._key = key
        self._status = 0
        loop = asyncio.get_running_loop()
        self._called: asyncio.Future[tuple[View, Context] | None] = loop.create_future()
        self._is_over = loop.create_future()

    async def run(self, application: ASGIApplication) -> Response:
        """Send the request through an application; return the response of the view.

        Raises:
            NotReachedError: it was answered without a call of the view.
            Exception: what the view raised.
        """
        scope = {**replay_scope(self._request), self._key: self}
        receive = replayed_receive(self._request.body)
        serving = asyncio.get_running_loop().create_task(
            self._serve(application(scope, receive, self._send)), context=context_outside_run()
        )
        try:
            called = await self._called
            if called is None:
                await serving
                raise NotReachedError(
                    f"in a replay Django answered {self._status} before it reached the view: "
                    "middleware or a decorator may need what is not stored with the run, such as "
                    "the header Authorization; see durable.is_replaying()"
                )
            view, context = called
            enter_run(context)
            return await asyncio.get_running_loop().create_task(
                respond_async(view), context=context
            )
        finally:
            if not self._is_over.done():
                self._is_over.set_result(None)
            await asyncio.wait((serving,))

    async def reach(self, view: View) -> bool:
        """Have a view respond that the application calls, if it is the run's.

        Returns:
            Whether it was, when it has; the application then gets a response that nobody reads.
        """
        if view.function is not self._function or self._called.done():
            return False
        self._called.set_result((view, copy_context()))
        await asyncio.shield(self._is_over)
        return True

    async def _serve(self, serving: Any) -> None:
        try:
            await serving
        finally:
            if not self._called.done():
                self._called.set_result(None)

    async def _send(self, message: Message) -> None:
        self._status = message.get("status", self._status)
