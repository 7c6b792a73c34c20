"""Where the server is and how to prove who we are: arguments, else environment variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from durable_core.errors import ConfigurationError
from durable_core.model.headers import Headers
from durable_core.wire.urls import parse_url
from durable_inngest._hosts import ANY, LOOPBACK, check_host, is_loopback
from durable_inngest._signing import hashed_key

__all__ = ["Config", "resolve_config"]

_DEV = "http://127.0.0.1:8288"
_CLOUD_API = "https://api.inngest.com"
_CLOUD_EVENTS = "https://inn.gs"
_TRUE = frozenset({"1", "true"})
_FALSE = frozenset({"0", "false"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the engine was told, with every default filled in.

    Attributes:
        is_dev: it works with a development server, which signs nothing.
        api_url, event_url: without a slash at the end.
        event_key: what events are sent with; None without one.
        signing_keys: the key and its fallback, as they were given; empty without one.
        environment: the name of the server's environment, or "".
        serve_origin, serve_path: what the server is told of our URL in place of what a request
            shows; "" for that.
        hosts: which hosts clients may name in their requests, as ``_hosts`` reads it.
    """

    is_dev: bool
    api_url: str
    event_url: str
    event_key: str | None = None
    signing_keys: tuple[str, ...] = ()
    environment: str = ""
    serve_origin: str = ""
    serve_path: str = ""
    hosts: tuple[str, ...] = ANY


def resolve_config(
    environ: Mapping[str, str],
    *,
    is_dev: bool | None = None,
    base_url: str | None = None,
    event_base_url: str | None = None,
    event_key: str | None = None,
    signing_key: str | None = None,
    signing_key_fallback: str | None = None,
    environment: str | None = None,
    serve_origin: str | None = None,
    serve_path: str | None = None,
    allowed_hosts: Sequence[str] | None = None,
) -> Config:
    """Return the configuration; see ``InngestEngine`` for the arguments.

    Raises:
        ConfigurationError: cloud mode without a signing key, or without a word on which URL the
            server must call; a key, URL or host of another form.
    """

    def given(argument: str | None, *names: str) -> str:
        values = (argument, *(environ.get(name) for name in names))
        return next((value.strip() for value in values if value and value.strip()), "")

    dev, dev_url = _mode(is_dev, environ.get("INNGEST_DEV", ""))
    api = given(base_url, "INNGEST_API_BASE_URL", "INNGEST_BASE_URL")
    events = given(event_base_url or base_url, "INNGEST_EVENT_API_BASE_URL", "INNGEST_BASE_URL")
    keys = tuple(
        key
        for key in (
            given(signing_key, "INNGEST_SIGNING_KEY"),
            given(signing_key_fallback, "INNGEST_SIGNING_KEY_FALLBACK"),
        )
        if key
    )
    if not dev and not keys:
        raise ConfigurationError(
            "the Inngest engine is in cloud mode and has no signing key: set INNGEST_SIGNING_KEY "
            "or InngestEngine(signing_key=), or INNGEST_DEV=1 for a development server"
        )
    for key in keys:
        hashed_key(key)
    own = given(serve_origin, "INNGEST_SERVE_ORIGIN")
    path = given(serve_path, "INNGEST_SERVE_PATH")
    if path and not path.startswith("/"):
        raise ConfigurationError(f"serve_path must begin with '/', not {path!r}")
    api_url = _url("base_url", api or dev_url or (_DEV if dev else _CLOUD_API))
    is_free = dev or bool(own)
    return Config(
        is_dev=dev,
        api_url=api_url,
        event_url=_url("event_base_url", events or dev_url or (_DEV if dev else _CLOUD_EVENTS)),
        event_key=given(event_key, "INNGEST_EVENT_KEY") or None,
        signing_keys=keys,
        environment=_environment(given(environment, "INNGEST_ENV")),
        serve_origin=_url("serve_origin", own) if own else "",
        serve_path=path,
        hosts=_hosts(allowed_hosts, ANY if is_free else LOOPBACK if is_loopback(api_url) else ()),
    )


def _hosts(given: Sequence[str] | None, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Return which hosts clients may name."""
    if isinstance(given, str):
        raise ConfigurationError(f"allowed_hosts must be several hosts, such as [{given!r}]")
    hosts = tuple(map(check_host, given)) if given is not None else otherwise
    if not hosts:
        raise ConfigurationError(
            "the Inngest engine is in cloud mode and does not know at which URL the server must "
            "call: set INNGEST_SERVE_ORIGIN or InngestEngine(serve_origin=), or name in "
            "InngestEngine(allowed_hosts=) the hosts for which the URL of the request may be taken"
        )
    return hosts


def _mode(is_dev: bool | None, text: str) -> tuple[bool, str]:
    """Return whether the server is a development server, and its URL if that was said."""
    word = text.strip()
    url = "" if word.lower() in _TRUE | _FALSE else word
    if url and "://" not in url:
        url = f"http://{url}"
    if is_dev is not None:
        return is_dev, url if is_dev else ""
    return bool(word) and word.lower() not in _FALSE, url


def _url(name: str, text: str) -> str:
    """Return a URL without a slash at its end, to which a path can be added."""
    try:
        parse_url(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} must be an http or https URL: {error}") from None
    if "?" in text or "#" in text:
        raise ConfigurationError(f"{name} must be a URL without a query and a fragment")
    return text.rstrip("/")


def _environment(name: str) -> str:
    """Return the name of the server's environment, which goes out in a header."""
    try:
        Headers({"x-inngest-env": name})
    except ValueError as error:
        raise ConfigurationError(f"environment must be a name such as 'staging': {error}") from None
    return name
