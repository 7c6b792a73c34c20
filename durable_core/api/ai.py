"""``step.ai``: calls of models that are made once and for all, and shown with the run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from durable_core.api.function_steps import current_scope, named, parsed
from durable_core.duration import Duration
from durable_core.flow.scope import HandlerKind, RunScope
from durable_core.flow.server_calls import ServerGateway
from durable_core.flow.step_options import StepOptions, call_options, merge_options

if TYPE_CHECKING:
    from durable_core.api.models import AIModel, Inference
    from durable_core.api.outgoing import AsyncClient, Client

__all__ = ["AISteps", "AsyncAISteps"]

_TIMEOUT = "10m"

P = ParamSpec("P")
T = TypeVar("T")


class AsyncAISteps:
    """``step.ai`` of ``async def`` handlers.

    Args:
        options: of each of its steps.
    """

    def __init__(self, options: StepOptions | None = None) -> None:
        self._options = options

    def infer(
        self,
        id: str,
        *,
        model: AIModel,
        body: Mapping[str, object],
        timeout: Duration | None = None,
        retries: int | None = None,
        client: AsyncClient | ServerGateway | None = None,
    ) -> Coroutine[Any, Any, Inference]:
        """Ask a model; its answer is stored with the tokens it took, and replay gets it from there.

        It is asked again as by ``step.fetch``, which see. What it refuses (another 4xx) is final.

        Args:
            id: the step's id.
            model: of ``durable_core.ai``, such as ``openai("gpt-4o-mini")``.
            body: of the request, without ``model``: ``messages`` and the rest. It is not stored.
            timeout: how long one attempt may take; a duration. Default: that of ``step.options``,
                else 10 minutes.
            retries: how often to try again, 0 to 20. Default: that of ``step.options``, else of the
                endpoint.
            client: an ``AsyncClient`` of ``httpx2`` or ``httpx``; as for ``step.fetch``.

        Returns:
            The answer: its ``text``, all of its ``data``, and its ``usage``.

        Raises:
            StepError: the model refused, or could not be asked on the last attempt.
            StepArgumentError: an argument of another form, such as ``stream`` in the body (a
                ValueError and a TypeError).
            StepUsageError: no client is given, and ``durable-client`` is not installed.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        options = self._options, timeout, retries
        return named("ai.infer", id, _infer(scope, id, model, body, options, client))

    @overload
    def wrap(
        self, id: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def wrap(
        self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...

    def wrap(
        self, id: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Call a function that asks a model, as ``step.run`` does; its input is stored, too.

        For people who look at the run, the result of the step has ``model`` (the argument of this
        name), ``input`` (all arguments) and ``output``. Arguments that are named like secrets
        (``api_key``, ``token``, ...) are left out, and of what is no JSON its ``repr`` is kept.

        Args:
            id: the step's id.
            fn: such as a method of an SDK; ``def`` or ``async def``.
            *args, **kwargs: handed to it.

        Returns:
            What the function returned; as for ``step.run``.

        Raises:
            StepError: it failed on the last attempt.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("ai.wrap", id, _wrap(scope, id, fn, args, kwargs, self._options))


class AISteps:
    """``step.ai`` of ``def`` handlers.

    Args:
        options: of each of its steps.
    """

    def __init__(self, options: StepOptions | None = None) -> None:
        self._options = options

    def infer(
        self,
        id: str,
        *,
        model: AIModel,
        body: Mapping[str, object],
        timeout: Duration | None = None,
        retries: int | None = None,
        client: Client | ServerGateway | None = None,
    ) -> Inference:
        """Ask a model; see :meth:`AsyncAISteps.infer`."""
        scope = current_scope(HandlerKind.DEF, id)
        options = self._options, timeout, retries
        answer: Inference = _infer(scope, id, model, body, options, client)
        return answer

    def wrap(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that asks a model; see :meth:`AsyncAISteps.wrap`."""
        scope = current_scope(HandlerKind.DEF, id)
        result: T = _wrap(scope, id, fn, args, kwargs, self._options)
        return result


def _infer(
    scope: RunScope,
    step_id: str,
    model: AIModel,
    body: Mapping[str, object],
    given: tuple[StepOptions | None, Duration | None, int | None],
    client: Any,
) -> Any:
    from durable_core.api.inference import make_inference, read_answer
    from durable_core.api.models import Inference
    from durable_core.api.outgoing import check_client, drive_call

    is_gateway = isinstance(client, ServerGateway)
    if not is_gateway:
        parsed(step_id, check_client, client, is_async=scope.kind is HandlerKind.ASYNC_DEF)
    before, timeout, retries = given
    options, seconds = call_options(
        step_id, before, timeout=timeout, retries=retries, default_timeout=_TIMEOUT
    )
    outgoing = parsed(step_id, make_inference, model, body, seconds)
    if is_gateway:
        from durable_core.api.gateway import infer_through_server

        unknown = merge_options(before, retries=retries, timeout=timeout).given()
        return infer_through_server(scope, step_id, outgoing, model, unknown)
    read = read_answer(model)
    return drive_call(scope, step_id, outgoing, client, options, read, Inference.load)


def _wrap(
    scope: RunScope,
    step_id: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: StepOptions | None,
) -> Any:
    from durable_core.api.inference import drive_wrapped

    return drive_wrapped(scope, step_id, fn, args, kwargs, options)
