"""What is known of an error of user code where it is caught: its trace, and whose fault it is."""

from __future__ import annotations

import re
import sys
import traceback
from types import TracebackType

from durable_core.flow.effects import Raised
from durable_core.flow.step_options import StepKeywords

__all__ = ["catch"]

#: What Python says of a call with other arguments than the function has, of an ``await`` before
#: something that cannot be awaited, and of a coroutine taken for its result.
_WRONG_USE = re.compile(
    r"\(\) (missing|got|takes) |can't be used in 'await' expression$|'coroutine'"
)
#: What Python says of a keyword that a function does not take.
_UNKNOWN_KEYWORD = re.compile(r"\(\) got an unexpected keyword argument '(\w+)'")
#: A part of a trace, such as a frame or a message, has at most so many characters.
_PART_CHARS = 2_000


def catch(error: Exception, *, in_step: bool, debug: bool) -> Raised:
    """Return the outcome of user code that has raised an error.

    The error is a mistake, which no further attempt mends, if it says that the code is wrong: wrong
    arguments, of a function of this library or of any other; attributes that an object of this
    library does not have; an ``await`` before what is no awaitable, or none before what is one;
    names that are not defined.
    Everything else may come from data or from the outside world.

    Args:
        error: the error, with its traceback.
        in_step: a step's function raised it. What it gives to this library may differ each time.
        debug: keep the stack trace, from the first frame of user code on.
    """
    if in_step and isinstance(error, TypeError):
        _hint_at_options(error)
    return Raised(error, _trace(error) if debug else "", _is_mistake(error, in_step))


def _hint_at_options(error: TypeError) -> None:
    """Note how an option of a step is written, if its function got one."""
    found = _UNKNOWN_KEYWORD.search(str(error))
    if found is not None and found[1] in StepKeywords.__annotations__:
        error.add_note(f"an option of the step is written step.options({found[1]}=...).run(...)")


def _is_mistake(error: Exception, in_step: bool) -> bool:
    if isinstance(error, AttributeError):
        return _is_ours(type(error.obj).__module__)
    if isinstance(error, TypeError):
        return _WRONG_USE.search(str(error)) is not None or _is_raised_by_us(error)
    if isinstance(error, NameError):
        return not isinstance(error, UnboundLocalError)
    return not in_step and isinstance(error, (ValueError, LookupError)) and _is_raised_by_us(error)


def _is_raised_by_us(error: Exception) -> bool:
    """Tell whether this library raised the error, or what it called of the standard library."""
    modules, frame = [], error.__traceback__
    while frame is not None:
        modules.append(_module(frame))
        frame = frame.tb_next
    while modules and _is_standard(modules[-1]):
        modules.pop()
    return bool(modules) and _is_ours(modules[-1])


def _trace(error: Exception) -> str:
    frame = error.__traceback__
    while frame is not None and (_is_ours(_module(frame)) or _is_standard(_module(frame))):
        frame = frame.tb_next
    parts = traceback.format_exception(type(error), error, frame or error.__traceback__)
    return "".join(
        part if len(part) <= _PART_CHARS else f"{part[:_PART_CHARS]}...\n" for part in parts
    )


def _module(frame: TracebackType) -> str:
    return str(frame.tb_frame.f_globals.get("__name__", ""))


def _is_ours(module: str) -> bool:
    """Tell whether a module is of this library. What a test plans to fail is not ours."""
    return f"{module}.".startswith("durable_core.") and "testing" not in module.split(".")


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
