"""What can be told of a user's function before it is called."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["is_async", "key_of"]


def key_of(handler: Callable[..., object]) -> str:
    """Return ``module:qualname`` of a handler; the same whether its module is run or imported."""
    module = getattr(handler, "__module__", None) or type(handler).__module__
    if module == "__main__":
        module = _main_module()
    name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
    return f"{module}:{name}"


def _main_module() -> str:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name: str = spec.name
        return name.removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


def is_async(function: Callable[..., object]) -> bool:
    """Tell whether a call of it returns a coroutine, as far as can be known before.

    Seen through are ``functools.partial``, objects with ``async def __call__``, and decorators
    that use ``functools.wraps``.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    if not inspect.isroutine(function) and inspect.iscoroutinefunction(type(function).__call__):
        return True
    # An object that wraps a coroutine function, such as ``async_to_sync``, is there to be plain.
    inner = getattr(function, "__wrapped__", None) if inspect.isfunction(function) else None
    return callable(inner) and is_async(inner)
