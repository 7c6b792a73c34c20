"""Whether a client object of HTTP is for ``def`` or for ``async def`` code."""

from __future__ import annotations

__all__ = ["is_client_of_kind"]


def is_client_of_kind(client: object, *, is_async: bool) -> bool:
    """Tell whether a client is for this kind of code, as far as one can see before it sends.

    A client that is a context of one kind, as those of ``httpx`` are, is of that kind. In a wrapper
    that is none, ``send`` may be a plain function that returns the coroutine of another client.
    """
    is_plain, is_asynchronous = hasattr(client, "__enter__"), hasattr(client, "__aenter__")
    if is_plain is not is_asynchronous:
        return is_asynchronous is is_async
    from inspect import iscoroutinefunction  # few clients need it, and it takes long to load

    return is_async or not iscoroutinefunction(getattr(client, "send", None))
