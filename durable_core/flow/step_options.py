"""The options of one step: how often it is tried, for how long, and what people see of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from durable_core.duration import Duration, parse_duration
from durable_core.errors import StepArgumentError
from durable_core.machine.retry import RetryPolicy, validate_retries
from durable_core.model.step import Op

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType

__all__ = [
    "NO_OPTIONS",
    "StepKeywords",
    "StepOptions",
    "Undo",
    "UndoReport",
    "call_options",
    "merge_options",
    "no_such_option",
    "parse_type",
    "show_step",
    "similar_names",
]

_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """The options of one step. None is what the endpoint or the application has.

    Attributes:
        retries: how often it is tried again, 0 to 20.
        timeout: how long one attempt may take, milliseconds; 1 or more.
        backoff: the pauses between its attempts.
        retry_if: tells whether an error is worth another attempt.
        name: what people see beside its id, 1 to 255 characters.
        result: the type of its result. Default: what the function's annotation says.
        at_most_once: store that an attempt begins, and begin none of whose end nothing is known.
        undo: called with the result of the step when the run fails or is cancelled.

    Raises:
        StepArgumentError: an option of another type, or out of range; the message names it.
    """

    retries: int | None = None
    timeout: int | None = None
    backoff: RetryPolicy | None = None
    retry_if: Callable[[Exception], bool] | None = None
    name: str | None = None
    result: ValueType | None = None
    at_most_once: bool | None = None
    undo: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        if self.retries is not None:
            try:
                validate_retries(self.retries)
            except ValueError as error:
                raise StepArgumentError(str(error)) from None
        if self.backoff is not None and not isinstance(self.backoff, RetryPolicy):
            raise StepArgumentError(
                f"backoff must be a RetryPolicy, not {type(self.backoff).__name__}"
            )
        if self.retry_if is not None:
            _check_predicate(self.retry_if)
        if self.name is not None:
            _check_name(self.name)
        if self.undo is not None and not callable(self.undo):
            raise StepArgumentError(
                f"undo must be a function of the step's result, not {type(self.undo).__name__}"
            )
        if not isinstance(self.at_most_once, (bool, type(None))):
            raise StepArgumentError(
                f"at_most_once must be True or False, not {self.at_most_once!r:.60}"
            )

    @property
    def most_retries(self) -> int | None:
        """How often the step is tried again; None for as often as its endpoint says."""
        return 0 if self.at_most_once and self.retries is None else self.retries

    def given(self) -> tuple[str, ...]:
        """Return the names of the options that are not None."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name) is not None)


#: Everything as the endpoint and the application have it.
NO_OPTIONS = StepOptions()


@dataclass(frozen=True, slots=True)
class Undo:
    """A step that has succeeded, and the function that undoes it, given its result."""

    op: Op
    fn: Callable[[Any], object]
    result: object


@dataclass(frozen=True, slots=True)
class UndoReport:
    """The names of the steps that were undone, and of those whose undoing has failed."""

    undone: tuple[str, ...]
    failed: tuple[str, ...]


def show_step(op: Op, options: StepOptions) -> str:
    """Return what a log calls a step: its id, and its ``name`` if it has one."""
    return repr(op.name) if options.name is None else f"{op.name!r} ({options.name})"


class StepKeywords(TypedDict, total=False):
    """The keyword arguments of ``step.options``. One that is left out, or None, stays as it is.

    Attributes:
        retries: how often to call the function again after it failed, 0 to 20. Default: that of
            the endpoint.
        timeout: how long one attempt may take: a duration as in ``step.sleep``, of 1 ms or more.
            Past it the attempt has failed. A coroutine function is cancelled. A plain function
            cannot be stopped: its thread is abandoned, and its result dropped.
        backoff: the pauses between attempts. Default: ``Durable(retry=)``.
        retry_if: called with the error of an attempt; False makes the error final. It is not asked
            for errors that are final already, such as ``NonRetriableError``.
        name: shown to people beside the step's id, 1 to 255 characters.
        at_most_once: store that the attempt begins before the function is called. After a crash in
            between, the step fails with ``StepInterrupted`` instead of being called again. It is
            not retried either, unless ``retries`` is given. It takes one more commit.
        undo: a function of the step's result, which undoes the step when the run fails or
            is cancelled. It is called in a step of its own, which is retried; the last step is
            undone first.
    """

    retries: int | None
    timeout: Duration | None
    backoff: RetryPolicy | None
    retry_if: Callable[[Exception], bool] | None
    name: str | None
    at_most_once: bool | None
    undo: Callable[[Any], object] | None


def merge_options(
    before: StepOptions | None, result: object = None, **keywords: Unpack[StepKeywords]
) -> StepOptions:
    """Return the options of before with these changes.

    Args:
        before: the options so far.
        result: the type of the result, as an annotation; None leaves it.
        **keywords: the changes.

    Raises:
        StepArgumentError: an option of another type, or out of range.
        TypeError: there is no option of that name.
    """
    unknown = keywords.keys() - StepKeywords.__annotations__.keys()
    if unknown:
        raise no_such_option("a step", unknown, StepKeywords.__annotations__)
    changes: dict[str, object] = {
        name: value for name, value in keywords.items() if value is not None
    }
    timeout = keywords.get("timeout")
    if timeout is not None:
        changes["timeout"] = _parse_timeout(timeout)
    if result is not None:
        changes["result"] = parse_type(result, "result")
    return replace(before or NO_OPTIONS, **changes)  # type: ignore[arg-type] # each is checked


def no_such_option(owner: str, unknown: Iterable[str], known: Iterable[str]) -> TypeError:
    """Return the error for options that there are not. It says which may be meant.

    Args:
        owner: what was given the options, such as ``"a step"``.
        unknown: the names of these options, at least one.
        known: the names that there are.
    """
    names, known = sorted(unknown), sorted(known)
    near = [each for name in names for each in similar_names(name, known)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return TypeError(f"{owner} has no option {', '.join(names)}; {hint}")


def similar_names(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that somebody may have meant who wrote this one."""
    from difflib import get_close_matches  # takes a while, and few need it

    known = list(known)
    longer = [each for each in known if each.startswith(name)]
    return list(dict.fromkeys([*get_close_matches(name, known, 2), *longer]))


def call_options(
    step_id: str,
    before: StepOptions | None,
    *,
    timeout: Duration | None,
    retries: int | None,
    default_timeout: Duration,
) -> tuple[StepOptions, float]:
    """Return the options of a step that calls a service, and its time-out in seconds.

    Args:
        step_id: the step.
        before: those of ``step.options``.
        timeout, retries: what the call itself says; None leaves what is before.
        default_timeout: where neither says one.

    Raises:
        StepArgumentError: one is of another type, or out of range; or ``result`` is before.
    """
    if before is not None and before.result is not None:
        raise StepArgumentError(
            f"step {step_id!r}: step.options(result=) is for functions; what a service answers has "
            "a type of its own"
        )
    if timeout is None and (before is None or before.timeout is None):
        timeout = default_timeout
    options = merge_options(before, retries=retries, timeout=timeout)
    assert options.timeout is not None
    return options, options.timeout / 1000


def parse_type(hint: object, what: str) -> ValueType:
    """Return the type that an argument names.

    Args:
        hint: the type, as in an annotation.
        what: the name of the argument.

    Raises:
        StepArgumentError: it has no form in JSON.
    """
    from durable_core.codec.forms import UnknownTypeError  # few steps need it
    from durable_core.codec.typed import value_type

    try:
        return value_type(hint)
    except UnknownTypeError as error:
        raise StepArgumentError(f"{what}: {error}") from None


def _parse_timeout(timeout: Duration) -> int:
    """Return the time that one attempt may take, milliseconds."""
    try:
        length = parse_duration(timeout, what="timeout")
    except (TypeError, ValueError) as error:
        raise StepArgumentError(str(error)) from None
    if length < 1:
        raise StepArgumentError("timeout must be 1 ms or more: an attempt needs some time")
    return length


def _check_predicate(retry_if: object) -> None:
    if not callable(retry_if):
        raise StepArgumentError(
            f"retry_if must be a function of the error, not {type(retry_if).__name__}"
        )
    if isinstance(retry_if, type):
        shown = retry_if.__name__
        raise StepArgumentError(
            f"retry_if must be a function of the error, not the class {shown}; such as "
            f"lambda error: isinstance(error, {shown})"
        )
    import inspect  # takes a while, and few need it

    if inspect.iscoroutinefunction(retry_if):
        raise StepArgumentError("retry_if must be a plain function: nothing awaits what it returns")


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise StepArgumentError(f"name must be a str, not {type(name).__name__}")
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise StepArgumentError(f"name must have 1 to {_LONGEST_NAME} characters, not {len(name)}")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise StepArgumentError("name must not contain lone surrogates") from None
