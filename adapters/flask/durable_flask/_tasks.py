"""Coroutine functions as views: they run in a task of the engine's event loop.

A thread of the server waits meanwhile in Flask's call of the view. So the contexts that Flask ends
with the request are there as long as the view runs.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import Context, copy_context
from typing import Any

import flask

from durable_core import Response
from durable_core.adapters import context_outside_run, enter_run
from durable_flask._views import View, core_response
from durable_wsgi import WSGIReplay

__all__ = ["TaskReplay", "respond_async"]


async def respond_async(view: View) -> Response:
    """Do in a task what ``respond`` does in a thread; error handlers are called in a thread.

    Raises:
        Exception: what the view raised, if the application has no handler for it.
    """
    app = flask.current_app
    try:
        value = await view()
    except Exception as error:
        value = await asyncio.to_thread(_handle_error, app, error)
    return core_response(app.make_response(value))


def _handle_error(app: flask.Flask, error: Exception) -> Any:
    try:
        raise error  # Flask raises again what it is handling, unless there is a handler for it
    except Exception:
        return app.handle_user_exception(error)


class TaskReplay(WSGIReplay):
    """A run's request on its way through the application, whose view is called in a task.

    Flask has a thread of its own for the request.

    Args:
        request, function, key: see ``WSGIReplay``.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._loop = asyncio.get_running_loop()
        self._called: asyncio.Future[tuple[View, Context] | None] = self._loop.create_future()
        self._served: asyncio.Future[Exception | None] = self._loop.create_future()
        self._is_over = threading.Event()

    async def run_in_task(self, application: flask.Flask) -> Response:
        """Send the request through an application; return the response of the view.

        Raises:
            NotReachedError: it was answered without a call of the view.
            Exception: what the view raised.
        """
        serve = context_outside_run().run
        threading.Thread(
            target=serve, args=(self._serve, application), name="durable-flask", daemon=True
        ).start()
        try:
            called = await self._called
            if called is None:
                error = await self._served
                assert error is not None
                raise error
            view, context = called
            enter_run(context)
            return await self._loop.create_task(respond_async(view), context=context)
        finally:
            self._is_over.set()
            await asyncio.wait((self._served,))

    def reach_view(self, view: View) -> bool:
        """Have a view called that the application calls, if it is the run's; wait for its end.

        Returns:
            Whether it was; the application then gets a response that nobody reads.
        """
        if view.function is not self.function or self._response is not None:
            return False
        self._response = Response(status=204)
        self._tell(self._called, (view, copy_context()))
        self._is_over.wait()
        return True

    def _serve(self, application: flask.Flask) -> None:
        """Run the application, in a thread."""
        error: Exception | None = None
        try:
            # Not the context of the request that this thread's context may be a copy of.
            with application.app_context():
                self.run(application)
        except Exception as raised:
            error = raised
        self._tell(self._served, error)
        self._tell(self._called, None)

    def _tell(self, future: asyncio.Future[Any], what: object) -> None:
        self._loop.call_soon_threadsafe(_fill, future, what)


def _fill(future: asyncio.Future[Any], what: object) -> None:
    if not future.done():
        future.set_result(what)
