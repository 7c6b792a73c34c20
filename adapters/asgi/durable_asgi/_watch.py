"""What a server says of a client whose request has been read."""

from __future__ import annotations

import logging

from durable_asgi._types import Receive

__all__ = ["is_gone"]

_logger = logging.getLogger("durable.asgi")


async def is_gone(receive: Receive) -> bool:
    """Wait for what the server says next: whether that the client is gone.

    Args:
        receive: of the ASGI application, which has read the whole request from it.
    """
    try:
        message = await receive()
    except Exception:
        _logger.warning("it cannot be told whether the client is gone", exc_info=True)
        return False
    return bool(message["type"] == "http.disconnect")
