"""The steps that call something, and the options that each of them may have: two typed faces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar, Unpack, overload

from durable_core.api.function_steps import (
    AsyncFunctionSteps,
    FunctionSteps,
    current_scope,
    named,
    parsed,
)
from durable_core.duration import Duration
from durable_core.flow.scope import HandlerKind, RunScope
from durable_core.flow.server_calls import ServerGateway
from durable_core.flow.step_options import (
    StepKeywords,
    StepOptions,
    call_options,
    merge_options,
    similar_names,
)
from durable_core.http.response import FetchedResponse

if TYPE_CHECKING:
    from durable_core.api.models import AIModel, Inference
    from durable_core.api.outgoing import AsyncClient, Client, OutgoingCall
    from durable_core.http.headers import HeaderFields

__all__ = [
    "AISteps",
    "AsyncAISteps",
    "AsyncCallSteps",
    "AsyncTypedAISteps",
    "AsyncTypedSteps",
    "CallSteps",
    "TypedAISteps",
    "TypedSteps",
]

#: How large the body of a response may be, bytes, and how long one attempt may take.
_MAX_BYTES = 1024 * 1024
_FETCH_TIMEOUT, _INFER_TIMEOUT = "30s", "10m"

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

#: Options of the steps, and ``timeout`` and ``retries`` of the call.
_Given: TypeAlias = tuple[StepOptions | None, Duration | None, int | None]


class AsyncCallSteps(AsyncFunctionSteps):
    """The steps of ``async def`` handlers that call something. ``step.options(...)`` makes it.

    Args:
        options: of each of its steps.
    """

    def fetch(
        self,
        id: str,
        url: str,
        *,
        method: str = "GET",
        headers: HeaderFields = (),
        body: bytes | str | None = None,
        json: object = None,
        timeout: Duration | None = None,
        max_bytes: int = _MAX_BYTES,
        retries: int | None = None,
        client: AsyncClient | ServerGateway | None = None,
    ) -> Coroutine[Any, Any, FetchedResponse]:
        """Call another service; the response is stored, and replay gets it from there.

        The call is made again, up to ``retries`` times, if the connection fails, or the service
        answers 429 or 5xx; then as late as its ``Retry-After`` says, up to an hour. Every other
        status is returned. Redirects are not followed: they are returned, too.

        Args:
            id: the step's id.
            url: absolute, ``http`` or ``https``.
            method: such as ``"POST"``. POST and PATCH get an ``Idempotency-Key``, the same in all
                attempts, unless ``headers`` has one.
            headers: of the request. They are not stored.
            body: bytes, or text, which is sent as UTF-8. It is not stored.
            json: a value to send as JSON, in place of ``body``.
            timeout: how long one attempt may take; a duration. Default: that of ``step.options``,
                else 30 s.
            max_bytes: how large the body of the response may be.
            retries: how often to try again, 0 to 20. Default: that of ``step.options``, else of the
                endpoint.
            client: an ``AsyncClient`` of ``httpx2`` or ``httpx`` to call with. Default: one of the
                package ``durable-client`` for this call. Under an engine with a server, a gateway
                such as ``InngestGateway()``: the server makes the call.

        Returns:
            Status, headers and body.

        Raises:
            StepError: it failed on the last attempt; its ``data`` has the ``status``, if any.
            StepArgumentError: an argument of another form (a ValueError and a TypeError).
            StepUsageError: no client is given, and ``durable-client`` is not installed.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        request = (method, url, headers, body, json)
        options = self._options, timeout, retries
        coroutine = _fetch(scope, id, request, options, max_bytes, client)
        return named("fetch", id, coroutine)

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


class CallSteps(FunctionSteps):
    """The steps of ``def`` handlers that call something. ``step.options(...)`` makes it.

    Args:
        options: of each of its steps.
    """

    def fetch(
        self,
        id: str,
        url: str,
        *,
        method: str = "GET",
        headers: HeaderFields = (),
        body: bytes | str | None = None,
        json: object = None,
        timeout: Duration | None = None,
        max_bytes: int = _MAX_BYTES,
        retries: int | None = None,
        client: Client | ServerGateway | None = None,
    ) -> FetchedResponse:
        """Call another service; see :meth:`AsyncCallSteps.fetch`."""
        scope = current_scope(HandlerKind.DEF, id)
        request = (method, url, headers, body, json)
        options = self._options, timeout, retries
        response: FetchedResponse = _fetch(scope, id, request, options, max_bytes, client)
        return response

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
        from durable_core.api.models import drive_wrapped  # takes a while to load

        return named("ai.wrap", id, drive_wrapped(scope, id, fn, args, kwargs, self._options))


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
        from durable_core.api.models import drive_wrapped  # see above

        result: T = drive_wrapped(scope, id, fn, args, kwargs, self._options)
        return result


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


class AsyncTypedAISteps(Protocol[R_co]):
    """``step.ai`` where ``step.options(result=...)`` names the type of the output."""

    def wrap(
        self, id: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R_co]:
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


class TypedAISteps(Protocol[R_co]):
    """``step.ai`` where ``step.options(result=...)`` names the type of the output."""

    def wrap(self, id: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call a function that asks a model; see :meth:`AsyncAISteps.wrap`."""
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


def _fetch(
    scope: RunScope,
    step_id: str,
    request: tuple[str, str, HeaderFields, object, object],
    given: _Given,
    max_bytes: int,
    client: Any,
) -> Any:
    from durable_core.api.outgoing import make_call

    method, url, headers, body, json = request

    def make(timeout: float) -> OutgoingCall:
        return make_call(
            method=method,
            url=url,
            headers=headers,
            body=body,
            json=json,
            timeout=timeout,
            max_bytes=max_bytes,
        )

    forms = FetchedResponse.dump, FetchedResponse.load
    return _call(scope, step_id, make, given, _FETCH_TIMEOUT, client, forms)


def _infer(
    scope: RunScope,
    step_id: str,
    model: AIModel,
    body: Mapping[str, object],
    given: _Given,
    client: Any,
) -> Any:
    from durable_core.api.models import Inference, make_inference, read_answer

    def make(timeout: float) -> OutgoingCall:
        return make_inference(model, body, timeout)

    forms = read_answer(model), Inference.load
    return _call(scope, step_id, make, given, _INFER_TIMEOUT, client, forms, model)


def _call(
    scope: RunScope,
    step_id: str,
    make: Callable[[float], OutgoingCall],
    given: _Given,
    default_timeout: str,
    client: Any,
    forms: tuple[Callable[[FetchedResponse], object], Callable[[Any], object]],
    model: AIModel | None = None,
) -> Any:
    """Have the client, or the server of the engine, make a call; see ``drive_call`` for ``forms``.

    Args:
        make: makes the call, given how long an attempt may take, seconds.
    """
    from durable_core.api.outgoing import check_client, drive_call

    before, timeout, retries = given
    options, seconds = call_options(
        step_id, before, timeout=timeout, retries=retries, default_timeout=default_timeout
    )
    if isinstance(client, ServerGateway):
        from durable_core.api.gateway import call_through_server

        outgoing = parsed(step_id, make, seconds)
        unknown = merge_options(before, retries=retries, timeout=timeout).given()
        return call_through_server(scope, step_id, outgoing, unknown, model)
    parsed(step_id, check_client, client, is_async=scope.kind is HandlerKind.ASYNC_DEF)
    outgoing = parsed(step_id, make, seconds)
    return drive_call(scope, step_id, outgoing, client, options, *forms)
