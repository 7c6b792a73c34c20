"""The ``lifespan`` scope: the engine starts and stops with the server."""

from __future__ import annotations

import asyncio
import logging

from durable_asgi._types import Receive, Send
from durable_core.adapters import EngineLifecycle, StopNotice
from durable_core.errors import ConfigurationError

__all__ = ["STOP_TIMEOUT", "check_event_loop", "serve_lifespan"]

_logger = logging.getLogger("durable.asgi")
#: Seconds that steps in flight have to end when the server stops.
STOP_TIMEOUT = 10.0


async def serve_lifespan(engine: EngineLifecycle, receive: Receive, send: Send) -> None:
    """Start the engine on this event loop, and stop it when the server stops.

    Servers end the lifespan after the last open request. So clients that wait are handed on before,
    when the server is asked to stop.

    The server is told if that cannot be done; it then does not serve.
    """
    await receive()
    try:
        check_event_loop()
        engine.start()
    except Exception as error:
        _logger.exception("could not start")
        await send({"type": "lifespan.startup.failed", "message": _text(error)})
        return
    with StopNotice(engine.drain):
        await send({"type": "lifespan.startup.complete"})
        await receive()
    try:
        await asyncio.to_thread(engine.stop, STOP_TIMEOUT)
    except Exception as error:
        _logger.exception("could not stop in good order")
        await send({"type": "lifespan.shutdown.failed", "message": _text(error)})
    else:
        await send({"type": "lifespan.shutdown.complete"})


def check_event_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop; refuse one that is not asyncio's.

    Raises:
        ConfigurationError: a server runs the application on another, such as trio's.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "durable_asgi runs on asyncio's event loop, or uvloop's, and this is another one; "
            "start the server with one of these (hypercorn: -k asyncio)"
        ) from None


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
