"""The options of an endpoint: as they are given, and as the flows read them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

from durable_core.duration import parse_duration
from durable_core.flow.step_options import no_such_option
from durable_core.http.headers import SENSITIVE_HEADERS, TOKEN
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import validate_retries

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType
    from durable_core.flow.completion import OnComplete
    from durable_core.flow.limits import (
        Concurrency,
        FlowLimits,
        RateLimit,
        Singleton,
        SingletonMode,
    )

__all__ = [
    "AsyncResponse",
    "Authorize",
    "EndpointOptions",
    "Labels",
    "RedirectUrl",
    "ResolvedOptions",
    "check_labels",
    "merge_options",
    "needs_run_at_once",
    "resolve_options",
]

#: The target of a handoff: a path or URL, or a function of run id and token.
RedirectUrl: TypeAlias = str | Callable[[str, str], str | Awaitable[str]]
#: Makes the response of a handoff, of run id, token and wait URL.
AsyncResponse: TypeAlias = Callable[[str, str, str], Response | Awaitable[Response]]
#: Decides, before a run begins, whether a request may have one; never called on replay.
Authorize: TypeAlias = Callable[[Request], bool | str | Awaitable[bool | str | None] | None]
#: Names and values by which a run is found, or a function of its request that returns them.
Labels: TypeAlias = Mapping[str, str] | Callable[[Request], Mapping[str, str]]

#: Options that are one object once they are resolved.
_LIMITS = ("concurrency", "queue_limit", "rate_limit", "singleton")
_MAX_LABELS = 16
_MAX_NAME_CHARS = 255


class EndpointOptions(TypedDict, total=False):
    """Options, as keyword arguments. One that is left out, or None, is that of the adapter.

    Attributes:
        async_redirect_url: where a handed-off client is sent. A path or URL gets the query
            parameters ``runId`` and ``token``; a function ``(run_id, token) -> str``, sync or
            async, makes the whole URL. Default: the endpoint's own URL.
        function_id: the endpoint's identity: a stored run finds its handler by it. Default:
            the function's module and name.
        name: how runs of the endpoint are shown to people. Default: ``function_id``, or
            ``"{METHOD} {path}"`` with the template of the route.
        retries: how often a step or the handler is tried again, 0 to 20. Default 3.
        async_response: what a handed-off client gets: ``"redirect"`` (default), ``"token"``, a
            JSON object with ``run_id`` and ``token``, ``"accepted"``, the same with status 202,
            ``Location`` and ``Retry-After``, or what a function ``(run_id, token, wait_url) ->
            Response``, sync or async, returns.
        methods: the methods that are served; others get 405. HEAD runs as GET if it is listed.
            Default: GET, POST, PUT, PATCH, DELETE, QUERY.
        authorize: called with the request before a run begins, sync or async; it refuses by
            returning False (403) or raising ``HTTPError``. A str that it returns names the
            principal, who has limits of their own and is ``request.principal``.
        store_headers: credential headers (``authorization``, ``cookie``, ``x-api-key`` and so on)
            that are stored with the run, so that replay sees them.
        exception_to_response: turns an exception of a web framework into its response; None for
            exceptions that are errors. It is asked for exceptions of handlers, of steps and of
            ``authorize``. A step is retried only if the response has status 408, 425, 429 or 5xx.
        idempotency: whether a request may have an ``Idempotency-Key``, by which a repeated request
            gets the run of the first: ``"optional"`` (default), ``"required"`` or ``"off"``.
        idempotency_ttl: how long a key leads to its run; a duration. Default: 24 hours. A run that
            has not ended keeps its key.
        key: derives the key from the request, in place of the header: a function that returns it,
            or None for a request without one. The key is the run's ``key``.
        omit_request_body: do not store the body of the request. The handler cannot read it, because
            a replay could not; functions of steps can, before the run is handed off or resumed.
        omit_response_body: do not store the body of the response. A client that was handed off, or
            that repeats the request, does not get it.
        on_mismatch: what happens when the code has changed since a run began, and a replay of it
            asks for a new step before one that is stored, or ends without one that is stored:
            ``"warn"`` (default), ``"fail"``, or ``"park"``: the run is left to the code of the
            version that it began with; needs ``version``.
        run_timeout: how long a run may take, from its request to its response, sleeps and waits
            included: a duration of 1 ms or more. Past it the run fails, and its steps are undone.
            It is stored with the run: a later version of the code does not change it. Default:
            no limit.
        max_sync_runtime: for how long a client waits on its own connection, a duration. Past it the
            client is handed off, while the step in progress goes on; with 0 before the handler
            begins. Default: no limit.
        concurrency: how many runs are executed at a time, in all processes of the store: a number,
            a ``Concurrency`` with a key, or a tuple of one with and one without. A run that has no
            place is handed off at once, and waits its turn.
        queue_limit: how many runs may wait their turn; a request for one more is answered 503.
        rate_limit: a ``RateLimit``: how often runs may begin; other requests are answered 429.
        singleton: what becomes of a request while another run has not ended: ``"reject"``,
            ``"attach"`` or ``"cancel"``; or a ``Singleton`` with one of these and a key.
        on_complete: who is told that a run has ended: a URL or a ``Webhook``, which gets a signed
            request, or a function of a ``Completed``, sync or async. It is told at least once.
        allow_cancel: clients may cancel their run, by DELETE of the wait URL. Default: False.
        ui_messages: clients get the run's stream as a UI message stream, which ``useChat`` of the
            AI SDK reads: ``"live"`` sends chunks when they are pushed, and needs AI SDK 7;
            ``"committed"`` sends those of a step when it has succeeded. The run has the label
            ``chat`` with the member ``id`` of the request's JSON, and is stored before its handler
            begins. Default: no such stream.
    """

    async_redirect_url: RedirectUrl | None
    function_id: str | None
    name: str | None
    retries: int | None
    async_response: Literal["redirect", "token", "accepted"] | AsyncResponse | None
    methods: tuple[str, ...] | None
    authorize: Authorize | None
    store_headers: tuple[str, ...] | None
    exception_to_response: Callable[[Exception], Response | None] | None
    idempotency: Literal["optional", "required", "off"] | None
    idempotency_ttl: str | float | timedelta | None
    key: Callable[[Request], str | None] | None
    record: Literal["needed", "always"] | None
    record_arguments: bool | None
    omit_request_body: bool | None
    omit_response_body: bool | None
    labels: Labels | None
    version: str | None
    on_mismatch: Literal["warn", "fail", "park"] | None
    run_timeout: str | float | timedelta | None
    max_sync_runtime: str | float | timedelta | None
    concurrency: int | Concurrency | Sequence[Concurrency] | None
    queue_limit: int | None
    rate_limit: RateLimit | None
    singleton: SingletonMode | Singleton | None
    on_complete: OnComplete | None
    allow_cancel: bool | None
    ui_messages: Literal["live", "committed"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedOptions:
    """The options of one endpoint, with the defaults of what neither it nor its adapter sets.

    Each has the name and the meaning that it has in :class:`EndpointOptions`, but for these:

    Attributes:
        key: the identity of the endpoint: ``function_id``, or else module and name of its function.
        derive_key: the option ``key``.
        idempotency_ttl: milliseconds.
        run_timeout: milliseconds.
        store_headers: in lower case.
        result: the type of what its function returns; None if that is JSON or a response.
        max_sync_runtime: milliseconds.
        handoff_headers: further header fields of the response that a handed-off client gets.
        limits: those of ``concurrency``, ``queue_limit``, ``rate_limit`` and ``singleton``; None
            without them.
    """

    key: str
    function_id: str | None = None
    name: str | None = None
    retries: int = 3
    async_response: Literal["redirect", "token", "accepted"] | AsyncResponse = "redirect"
    async_redirect_url: RedirectUrl | None = None
    methods: tuple[str, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "QUERY")
    authorize: Authorize | None = None
    store_headers: frozenset[str] = frozenset()
    exception_to_response: Callable[[Exception], Response | None] | None = None
    idempotency: Literal["optional", "required", "off"] = "optional"
    idempotency_ttl: int = 86_400_000
    derive_key: Callable[[Request], str | None] | None = None
    record: Literal["needed", "always"] = "needed"
    record_arguments: bool = False
    omit_request_body: bool = False
    omit_response_body: bool = False
    labels: Labels | None = None
    version: str | None = None
    on_mismatch: Literal["warn", "fail", "park"] = "warn"
    run_timeout: int | None = None
    result: ValueType | None = None
    max_sync_runtime: int | None = None
    allow_cancel: bool = False
    handoff_headers: tuple[tuple[str, str], ...] = ()
    limits: FlowLimits | None = None
    on_complete: OnComplete | None = None
    ui_messages: Literal["live", "committed"] | None = None


def merge_options(below: EndpointOptions, over: EndpointOptions) -> EndpointOptions:
    """Return the options of both; one that ``over`` sets goes before that of ``below``.

    Raises:
        ValueError, TypeError: an option of ``over`` is out of range, or there is none of its name.
    """
    given: EndpointOptions = {**over}
    for option in [name for name, value in over.items() if value is None]:
        del given[option]  # type: ignore[misc] # an option of the class, though not a literal
    _check(given)
    return {**below, **given}


def resolve_options(
    options: EndpointOptions, default_key: str, result: ValueType | None = None
) -> ResolvedOptions:
    """Return how an endpoint behaves that has these options.

    Args:
        options: those of the endpoint and its adapter, as :func:`merge_options` returns them.
        default_key: the identity of an endpoint without ``function_id``.
        result: the type of what its function returns; None if that is JSON or a response.

    Raises:
        ValueError: ``queue_limit`` without ``concurrency``.
    """
    given = cast("dict[str, Any]", {**options})
    if given.get("on_mismatch") == "park" and "version" not in given:
        raise ValueError("on_mismatch='park' needs version=, by which older code is known")
    headers = frozenset(name.lower() for name in given.pop("store_headers", ()))
    key = given.get("function_id", default_key)
    if "key" in given:
        given["derive_key"] = given.pop("key")
    if "idempotency_ttl" in given:
        given["idempotency_ttl"] = parse_duration(given["idempotency_ttl"])
    if "run_timeout" in given:
        given["run_timeout"] = parse_duration(given["run_timeout"])
    limited = {name: given.pop(name) for name in _LIMITS if name in given}
    if limited:
        given["limits"] = _resolve_limits(key, limited)
    if "max_sync_runtime" in given:
        given["max_sync_runtime"] = parse_duration(given["max_sync_runtime"])
    if "ui_messages" in given:
        from durable_core.flow.chats import with_chat  # few endpoints need it

        given["labels"] = with_chat(given.get("labels"))
    resolved = ResolvedOptions(key=key, store_headers=headers, result=result, **given)
    if resolved.ui_messages is not None and resolved.max_sync_runtime == 0:
        raise ValueError(
            "ui_messages= answers on the client's connection, and max_sync_runtime=0 leaves none"
        )
    if resolved.omit_request_body and resolved.max_sync_runtime == 0:
        raise ValueError(
            "max_sync_runtime=0 begins every run by a replay, and with omit_request_body=True that "
            "has no body"
        )
    limits = resolved.limits
    if resolved.omit_request_body and limits is not None and limits.queues:
        raise ValueError(
            "concurrency= queues runs, which begin by a replay, and with omit_request_body=True "
            "that has no body; with queue_limit=0 no run is queued"
        )
    return resolved


#: Options that change nothing before the first step of a run, nor for a handler without a step.
_LATER = frozenset(
    {
        *("key", "function_id", "name", "retries", "version", "store_headers", "methods"),
        *("async_response", "async_redirect_url", "exception_to_response", "result"),
        *("idempotency", "idempotency_ttl", "handoff_headers", "labels"),
        *("record_arguments", "on_mismatch"),
    }
)


def needs_run_at_once(options: ResolvedOptions) -> bool:
    """Tell whether there must be a run before the handler is called, because of an option.

    Every option counts that is not known to be one for later.
    """
    if options.idempotency == "required" or callable(options.labels):
        return True
    return any(
        getattr(options, each.name) != each.default
        for each in fields(options)
        if each.name not in _LATER
    )


def _resolve_limits(key: str, given: dict[str, Any]) -> FlowLimits | None:
    from durable_core.flow.limits import resolve_limits  # few endpoints need it

    return resolve_limits(key, **dict.fromkeys(_LIMITS) | given)


def _check_store_headers(names: object) -> None:
    if not isinstance(names, (tuple, list, set, frozenset)):
        raise TypeError(f"store_headers must be a tuple of header names, not {names!r}")
    for name in names:
        if not isinstance(name, str) or name.lower() not in SENSITIVE_HEADERS:
            raise ValueError(
                f"store_headers: {name!r} is no credential header; all other headers are stored"
            )


#: Options that are functions, and what these are called with.
_FUNCTIONS = {"authorize": "request", "exception_to_response": "exception", "key": "request"}


def _check(options: EndpointOptions) -> None:
    unknown = options.keys() - EndpointOptions.__annotations__.keys()
    if unknown:
        raise no_such_option("an endpoint", unknown, EndpointOptions.__annotations__)
    retries = options.get("retries")
    if retries is not None:
        validate_retries(retries)
    _check_async_response(options.get("async_response"))
    _check_store_headers(options.get("store_headers", ()))
    _check_choice("on_mismatch", options.get("on_mismatch"), ("warn", "fail", "park"))
    _check_choice("record", options.get("record"), ("needed", "always"))
    _check_choice("idempotency", options.get("idempotency"), ("optional", "required", "off"))
    _check_choice("ui_messages", options.get("ui_messages"), ("live", "committed"))
    if (ttl := options.get("idempotency_ttl")) is not None:
        parse_duration(ttl, what="idempotency_ttl")
    timeout = options.get("run_timeout")
    if timeout is not None and parse_duration(timeout, what="run_timeout") < 1:
        raise ValueError("run_timeout must be 1 ms or more: a run needs some time")
    if (limit := options.get("max_sync_runtime")) is not None:
        parse_duration(limit, what="max_sync_runtime")
    for name, argument in _FUNCTIONS.items():
        if (function := options.get(name)) is not None and not callable(function):
            raise TypeError(f"{name} must be a function of the {argument}, not {function!r}")
    for name in ("record_arguments", "omit_request_body", "omit_response_body", "allow_cancel"):
        if not isinstance(flag := options.get(name), (bool, type(None))):
            raise TypeError(f"{name} must be True or False, not {flag!r}")
    for name in ("function_id", "name", "version"):
        _check_name(name, options.get(name))
    limits: dict[str, Any] = {name: each for name, each in options.items() if name in _LIMITS}
    if limits:
        _resolve_limits("", limits)
    labels = options.get("labels")
    if labels is not None and not callable(labels):
        check_labels(labels)
    _check_redirect_url(options.get("async_redirect_url"))
    if (methods := options.get("methods")) is not None:
        options["methods"] = _check_methods(methods)


def _check_async_response(value: object) -> None:
    if callable(value):
        return
    if value is not None and not isinstance(value, str):
        raise TypeError(
            "async_response must be 'redirect', 'token', 'accepted' or a function of run id, token "
            f"and wait URL, not {value!r}"
        )
    _check_choice("async_response", value, ("redirect", "token", "accepted"))


def _check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        allowed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise ValueError(f"{option} must be {allowed}, not {value!r}")


def check_labels(labels: object) -> tuple[tuple[str, str], ...]:
    """Return labels as a run keeps them, ordered by name.

    Args:
        labels: what ``labels=``, or its function, says.

    Raises:
        TypeError: no mapping of str to str.
        ValueError: too many, or a name or value of no or too many characters.
    """
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels must be a mapping of names to values, not {labels!r}")
    if len(labels) > _MAX_LABELS:
        raise ValueError(f"labels must be at most {_MAX_LABELS}, not {len(labels)}")
    for name, value in labels.items():
        _check_name("labels: a name", name)
        _check_name(f"labels: the value of {name!r}", value)
    return tuple(sorted(labels.items()))


def _check_name(option: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{option} must be a str, not {type(value).__name__}")
    if not 1 <= len(value) <= _MAX_NAME_CHARS:
        raise ValueError(f"{option} must have 1 to {_MAX_NAME_CHARS} characters, not {len(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{option} must not contain lone surrogates") from None


def _check_redirect_url(value: object) -> None:
    if value is None or callable(value):
        return
    if not isinstance(value, str):
        raise TypeError(
            "async_redirect_url must be a path, a URL or a function of run id and token, "
            f"not {type(value).__name__}"
        )
    if not value or not value.isascii() or any(char <= " " for char in value):
        raise ValueError(
            f"async_redirect_url must be a non-empty, percent-encoded URL or path, not {value!r}"
        )


def _check_methods(methods: object) -> tuple[str, ...]:
    if not methods or not isinstance(methods, (tuple, list, set, frozenset)):
        raise ValueError(f"methods must be like ('GET', 'POST'), not {methods!r}")
    for method in methods:
        if not isinstance(method, str) or TOKEN.fullmatch(method) is None or not method.isupper():
            raise ValueError(f"methods must be upper-case names, not {method!r}")
    return tuple(methods)
