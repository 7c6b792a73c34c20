"""The page ``docs/reference/signatures.md``: every public name, with its signature.

``python docs/_generate/signatures.py`` prints it. Public is what the modules below have in
``__all__``; the text beside a name is the first line of its docstring.
"""

from __future__ import annotations

import enum
import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from importlib import import_module

MODULES = (
    "durable_core",
    "durable_core.sync",
    "durable_core.engines",
    "durable_core.engines.remote",
    "durable_core.stores",
    "durable_core.routing",
    "durable_core.observers",
    "durable_core.inspection",
    "durable_core.webhooks",
    "durable_core.ai",
    "durable_core.adapters",
    "durable_core.clients",
    "durable_core.testing",
    "durable_core.errors",
    "durable_wsgi",
    "durable_wsgi.gunicorn",
    "durable_wsgi.waitress",
    "durable_asgi",
    "durable_asyncio",
    "durable_django",
    "durable_flask",
    "durable_starlette",
    "durable_inngest",
    "durable_otel",
    "durable_prometheus",
    "durable_dashboard",
    "durable_pydantic_ai",
    "durable_client",
)
_HEAD = """\
# Signatures

<!-- Generated from the public modules by `python3 dev.py docs`. Do not edit. -->

Every public name. The docstrings are the contract in full: `help(durable_core.Durable)` shows them.
[API](api.md) says what there is for which purpose.
"""
_WIDTH = 88


class _Text:
    """An annotation or a default that is shown as the source has it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def page() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(line for name in MODULES for line in _module(name))])


def _module(name: str) -> Iterator[str]:
    module = import_module(name)
    yield f"## `{name}`\n"
    for public in sorted(module.__all__, key=str.lower):
        value = getattr(module, public)
        lines = list(_lines(public, value))
        yield f"### `{public}` ({name})\n" if lines else f"- `{public}`"
        summary = _summary(value)
        if summary:
            yield f"{summary}\n"
        if lines:
            yield "\n".join(["```text", *lines, "```", ""])


def _lines(name: str, value: object) -> Iterator[str]:
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        # The signature of such a class differs between versions of Python.
        yield from (f"{name}.{member.name} = {member.value!r}" for member in value)
        yield from _members(name, value)
    elif inspect.isclass(value):
        if not getattr(value, "_is_protocol", False) and not issubclass(value, dict):
            yield from _call(name, value, first="self")
        yield from _members(name, value)
    elif inspect.isroutine(value):
        yield from _call(name, value)
    elif type(value).__module__.startswith("durable_"):
        yield from _members(name, type(value))
    else:
        text = re.sub(r"\bdurable_[\w.]+\.(\w+)", r"\1", str(value)).replace("typing.", "")
        yield f"{name} = {text}"


def _members(name: str, cls: type) -> Iterator[str]:
    seen: set[str] = set()  # what a base has, too, is shown as the class has it
    for each in cls.__mro__:
        if not each.__module__.startswith("durable_"):
            continue
        for member, value in vars(each).items():
            if member.startswith("_") or member in seen or getattr(cls, member, None) is None:
                continue
            seen.add(member)
            if isinstance(value, (property, functools.cached_property)):
                read = value.fget if isinstance(value, property) else value.func
                returned = inspect.signature(read).return_annotation if read else ""
                yield f"{name}.{member}: {returned}"
            elif isinstance(value, (staticmethod, classmethod)):
                yield from _call(f"{name}.{member}", getattr(cls, member))
            elif inspect.isroutine(value):
                yield from _call(f"{name}.{member}", value, first="self")


def _call(name: str, function: Callable[..., object], first: str = "") -> Iterator[str]:
    """Yield the signatures of a function, without its first parameter if that has this name."""
    init = function.__init__ if inspect.isclass(function) else function
    overloads = typing.get_overloads(init) if inspect.isfunction(init) else []
    for each in overloads or [function]:
        try:
            signature = inspect.signature(each)
        except ValueError:  # a class that is made as its base of the standard library is
            continue
        parameters = [
            p.replace(annotation=_shown(p.annotation), default=_default(p.default))
            for p in signature.parameters.values()
            if p.name != first
        ]
        returned = _shown(signature.return_annotation)
        if inspect.isclass(function):
            returned = inspect.Signature.empty
        is_async = inspect.iscoroutinefunction(each)
        shown = signature.replace(parameters=parameters, return_annotation=returned)
        yield from _wrapped(f"{'await ' if is_async else ''}{name}", str(shown))


def _shown(annotation: object) -> object:
    if annotation is inspect.Signature.empty or not isinstance(annotation, str):
        return annotation
    return _Text(annotation.strip("'\""))


def _default(default: object) -> object:
    if default is inspect.Signature.empty or isinstance(default, (str, int, float, type(None))):
        return default
    return _Text("...")


def _wrapped(name: str, signature: str) -> Iterator[str]:
    if len(name) + len(signature) <= _WIDTH:
        yield f"{name}{signature}"
        return
    inner, _, returned = signature[1:].rpartition(")")
    yield f"{name}("
    depth, start = 0, 0
    for index, char in enumerate(inner):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            yield f"    {inner[start : index + 1].strip()}"
            start = index + 1
    yield f"    {inner[start:].strip()},"
    yield f"){returned}"


def _summary(value: object) -> str:
    documented = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    if not getattr(documented, "__module__", "").startswith("durable_"):
        return ""
    paragraph = (inspect.getdoc(documented) or "").partition("\n\n")[0]
    text = re.sub(r":\w+:`~?([^`]+)`", r"``\1``", " ".join(paragraph.split()))
    return text.replace("``", "`")


if __name__ == "__main__":
    sys.stdout.write(page())
