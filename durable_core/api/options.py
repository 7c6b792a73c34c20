"""How an endpoint behaves: options of an adapter, and of one endpoint, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias, TypedDict

from durable_core.flow.env import RedirectUrl
from durable_core.http.headers import TOKEN
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import validate_retries

__all__ = ["DEFAULT_METHODS", "Authorize", "EndpointOptions", "EndpointOptionsDict"]

#: Decides, before a run begins, whether a request may have one; never called on replay.
Authorize: TypeAlias = Callable[[Request], "bool | Awaitable[bool | None] | None"]

DEFAULT_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class EndpointOptionsDict(TypedDict, total=False):
    """The options of :class:`EndpointOptions` as keyword arguments."""

    async_redirect_url: RedirectUrl | None
    function_id: str | None
    name: str | None
    retries: int | None
    async_response: Literal["redirect", "token"] | None
    methods: tuple[str, ...] | None
    authorize: Authorize | None
    store_headers: tuple[str, ...] | None
    exception_to_response: Callable[[Exception], Response | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """Options; None means "as the next one says": endpoint, then adapter, then the default.

    Args:
        async_redirect_url: where a handed-off client is sent. A path or URL gets the query
            parameters ``runId`` and ``token``; a function ``(run_id, token) -> str``, sync or
            async, makes the whole URL. Default: the endpoint's own URL.
        function_id: the label of the endpoint's runs, and its key. Default: the label
            ``"{METHOD} {path}"``, the key the function's module and name.
        name: the key alone.
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
            exceptions that are errors.

    Raises:
        ValueError, TypeError: an option out of range.
    """

    async_redirect_url: RedirectUrl | None = None
    function_id: str | None = None
    name: str | None = None
    retries: int | None = None
    async_response: Literal["redirect", "token"] | None = None
    methods: tuple[str, ...] | None = None
    authorize: Authorize | None = None
    store_headers: tuple[str, ...] | None = None
    exception_to_response: Callable[[Exception], Response | None] | None = None

    def __post_init__(self) -> None:
        if self.retries is not None:
            validate_retries(self.retries)
        if self.async_response not in (None, "redirect", "token"):
            raise ValueError(
                f"async_response must be 'redirect' or 'token', not {self.async_response!r}"
            )
        for option in ("function_id", "name"):
            _check_name(option, getattr(self, option))
        _check_redirect_url(self.async_redirect_url)
        if self.methods is not None:
            object.__setattr__(self, "methods", _checked_methods(self.methods))

    def merged(self, over: EndpointOptions) -> EndpointOptions:
        """Return these options with those of ``over`` that are set in their place."""
        chosen: dict[str, Any] = {
            field.name: value
            for field in fields(over)
            if (value := getattr(over, field.name)) is not None
        }
        return replace(self, **chosen)


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
    if isinstance(methods, str) or not methods:
        raise ValueError(f"methods must be like ('GET', 'POST'), not {methods!r}")
    assert isinstance(methods, (tuple, list, set, frozenset))
    for method in methods:
        if not isinstance(method, str) or TOKEN.fullmatch(method) is None or not method.isupper():
            raise ValueError(f"methods must be upper-case names, not {method!r}")
    return tuple(methods)
