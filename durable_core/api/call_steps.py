"""The steps that call something, and the options that each of them may have: two typed faces."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from durable_core.api.ai import AISteps, AsyncAISteps
from durable_core.api.fetch import AsyncFetchSteps, FetchSteps
from durable_core.api.function_steps import AsyncFunctionSteps, FunctionSteps
from durable_core.flow.step_options import StepKeywords, merge_options, similar_names

__all__ = [
    "AsyncCallSteps",
    "AsyncTypedAISteps",
    "AsyncTypedSteps",
    "CallSteps",
    "TypedAISteps",
    "TypedSteps",
]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class AsyncCallSteps(AsyncFunctionSteps, AsyncFetchSteps):
    """The steps of ``async def`` handlers that call something. ``step.options(...)`` makes it.

    Args:
        options: of each of its steps.
    """

    @property
    def ai(self) -> AsyncAISteps:
        """The steps that ask models."""
        return AsyncAISteps(self._options)

    if not TYPE_CHECKING:  # a type checker knows what is missing

        def __getattr__(self, name: str) -> object:
            raise _no_step(self, name)

    @overload
    def options(self, **options: Unpack[StepKeywords]) -> AsyncCallSteps: ...

    @overload
    def options(
        self, *, result: type[R], **options: Unpack[StepKeywords]
    ) -> AsyncTypedSteps[R]: ...

    @overload
    def options(
        self, *, result: object, **options: Unpack[StepKeywords]
    ) -> AsyncTypedSteps[Any]: ...

    def options(self, *, result: Any = None, **options: Unpack[StepKeywords]) -> Any:
        """Return steps with options: ``await step.options(retries=5).run("charge", charge, cart)``.

        Args:
            result: the type of the result, such as ``Order`` or ``list[Order]``, where the
                function's return annotation does not say it. None leaves that.
            **options: see :class:`StepKeywords`; they change what these steps have.

        Raises:
            StepArgumentError: an option of another type, or out of range (also a ValueError and a
                TypeError).
        """
        return AsyncCallSteps(merge_options(self._options, result, **options))


class AsyncTypedAISteps(Protocol[R_co]):
    """``step.ai`` where ``step.options(result=...)`` names the type of the output."""

    def wrap(
        self, id: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R_co]:
        """Call a function that asks a model; see :meth:`AsyncAISteps.wrap`."""
        ...


class AsyncTypedSteps(Protocol[R_co]):
    """Steps whose results are of the type that ``step.options(result=...)`` names."""

    def run(
        self, id: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R_co]:
        """Call a function once and for all; see :meth:`AsyncFunctionSteps.run`."""
        ...

    @property
    def ai(self) -> AsyncTypedAISteps[R_co]:
        """The steps that ask models."""
        ...

    def options(self, **options: Unpack[StepKeywords]) -> AsyncTypedSteps[R_co]:
        """Return steps with further options; see :meth:`AsyncCallSteps.options`."""
        ...


class CallSteps(FunctionSteps, FetchSteps):
    """The steps of ``def`` handlers that call something. ``step.options(...)`` makes it.

    Args:
        options: of each of its steps.
    """

    @property
    def ai(self) -> AISteps:
        """The steps that ask models."""
        return AISteps(self._options)

    if not TYPE_CHECKING:  # a type checker knows what is missing

        def __getattr__(self, name: str) -> object:
            raise _no_step(self, name)

    @overload
    def options(self, **options: Unpack[StepKeywords]) -> CallSteps: ...

    @overload
    def options(self, *, result: type[R], **options: Unpack[StepKeywords]) -> TypedSteps[R]: ...

    @overload
    def options(self, *, result: object, **options: Unpack[StepKeywords]) -> TypedSteps[Any]: ...

    def options(self, *, result: Any = None, **options: Unpack[StepKeywords]) -> Any:
        """Return steps with options: ``step.options(retries=5).run("charge", charge, cart)``.

        See :meth:`AsyncCallSteps.options`.
        """
        return CallSteps(merge_options(self._options, result, **options))


class TypedAISteps(Protocol[R_co]):
    """``step.ai`` where ``step.options(result=...)`` names the type of the output."""

    def wrap(self, id: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call a function that asks a model; see :meth:`AsyncAISteps.wrap`."""
        ...


class TypedSteps(Protocol[R_co]):
    """Steps whose results are of the type that ``step.options(result=...)`` names."""

    def run(self, id: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call a plain function once and for all; see :meth:`AsyncFunctionSteps.run`."""
        ...

    @property
    def ai(self) -> TypedAISteps[R_co]:
        """The steps that ask models."""
        ...

    def options(self, **options: Unpack[StepKeywords]) -> TypedSteps[R_co]:
        """Return steps with further options; see :meth:`AsyncCallSteps.options`."""
        ...


def _no_step(steps: object, name: str) -> AttributeError:
    """Return the error of a step that there is not, such as ``step.options(...).sleep``."""
    if type(steps) is AsyncCallSteps or type(steps) is CallSteps:
        return AttributeError(
            f"step.options(...) has run, fetch, ai.infer, ai.wrap and options, and no {name!r}; "
            "other steps have no options"
        )
    near = similar_names(name, [each for each in dir(steps) if not each.startswith("_")])
    hint = f"; did you mean step.{' or step.'.join(near)}?" if near else ""
    return AttributeError(f"there is no step.{name}{hint}", name=name, obj=steps)
