"""How an endpoint behaves: options of an adapter, and of one endpoint, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, TypedDict

from durable_core.flow.env import RedirectUrl, ResolvedOptions
from durable_core.http.headers import TOKEN
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import validate_retries

__all__ = ["DEFAULT_METHODS", "Authorize", "EndpointOptions", "merge_options", "resolve_options"]

#: Decides, before a run begins, whether a request may have one; never called on replay.
Authorize: TypeAlias = Callable[[Request], "bool | Awaitable[bool | None] | None"]

DEFAULT_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


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
        async_response: what a handed-off client gets: ``"redirect"`` (default) or ``"token"``,
            a JSON object with ``run_id`` and ``token``.
        methods: the methods that are served; others get 405. HEAD runs as GET if it is listed.
            Default: GET, POST, PUT, PATCH, DELETE.
        authorize: called with the request before a run begins, sync or async; it refuses by
            returning False (403) or raising ``HTTPError``.
        store_headers: sensitive request headers (``authorization``, ``cookie``,
            ``proxy-authorization``) that are stored with the run, so that replay sees them.
        exception_to_response: turns an exception of a web framework into its response; None for
            exceptions that are errors. It is asked for exceptions of handlers, of steps and of
            ``authorize``. A step is retried only if the response has status 408, 425, 429 or 5xx.
    """

    async_redirect_url: RedirectUrl | None
    function_id: str | None
    name: str | None
    retries: int | None
    async_response: Literal["redirect", "token"] | None
    methods: tuple[str, ...] | None
    authorize: Authorize | None
    store_headers: tuple[str, ...] | None
    exception_to_response: Callable[[Exception], Response | None] | None


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


def resolve_options(options: EndpointOptions, default_key: str) -> ResolvedOptions:
    """Return how an endpoint behaves that has these options.

    Args:
        options: those of the endpoint and its adapter, put together.
        default_key: the identity of an endpoint without ``function_id``.
    """
    store_headers = options.get("store_headers") or ()
    retries = options.get("retries")
    return ResolvedOptions(
        key=options.get("function_id") or default_key,
        function_id=options.get("function_id"),
        name=options.get("name"),
        retries=3 if retries is None else retries,
        token_answer=options.get("async_response") == "token",
        redirect_url=options.get("async_redirect_url"),
        store_headers=frozenset(name.lower() for name in store_headers),
        exception_to_response=options.get("exception_to_response"),
    )


def _check(options: EndpointOptions) -> None:
    unknown = options.keys() - EndpointOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"an endpoint has no option {', '.join(sorted(unknown))}")
    retries = options.get("retries")
    if retries is not None:
        validate_retries(retries)
    if options.get("async_response") not in (None, "redirect", "token"):
        raise ValueError(
            f"async_response must be 'redirect' or 'token', not {options.get('async_response')!r}"
        )
    _check_name("function_id", options.get("function_id"))
    _check_name("name", options.get("name"))
    _check_redirect_url(options.get("async_redirect_url"))
    if (methods := options.get("methods")) is not None:
        options["methods"] = _checked_methods(methods)


def _check_name(option: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{option} must be a str, not {type(value).__name__}")
    if not 1 <= len(value) <= 255:
        raise ValueError(f"{option} must have 1 to 255 characters, not {len(value)}")
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


def _checked_methods(methods: object) -> tuple[str, ...]:
    if not methods or not isinstance(methods, (tuple, list, set, frozenset)):
        raise ValueError(f"methods must be like ('GET', 'POST'), not {methods!r}")
    for method in methods:
        if not isinstance(method, str) or TOKEN.fullmatch(method) is None or not method.isupper():
            raise ValueError(f"methods must be upper-case names, not {method!r}")
    return tuple(methods)
