"""Where the server is and how to prove who we are: arguments, else environment variables."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from durable_core import Headers
from durable_core.engines.remote import (
    ANY_HOST,
    LOOPBACK_HOSTS,
    canonical_json,
    check_host,
    is_loopback,
    logger,
)
from durable_core.errors import ConfigurationError
from durable_inngest._http import check_url

__all__ = [
    "FRESH",
    "Config",
    "hashed_key",
    "resolve_config",
    "sign",
    "verify",
]


# --- signing --------------------------------------------------------------------------------------
#
# Signatures on requests and answers, and the key that stands in the Authorization header.
#
# Both come from one signing key, by different ways: a signature is keyed with the text behind the
# key's prefix, the bearer token is the SHA-256 of the bytes that this text spells in hexadecimal.

#: A signature is taken this many seconds before and after its time.
FRESH = 300

_PREFIX = re.compile(r"signkey-\w+-")
_TIME = re.compile(r"[0-9]{1,12}")


def hashed_key(key: str) -> str:
    """Return the bearer token of a signing key: its prefix, and the hash of the rest.

    Raises:
        ConfigurationError: the key is not hexadecimal; the message does not show it.
    """
    prefix, rest = _split(key)
    try:
        secret = bytes.fromhex(rest)
    except ValueError:
        secret = b""
    if not secret:
        raise ConfigurationError(
            "a signing key must be hexadecimal, after a prefix such as 'signkey-prod-'"
        )
    return prefix + hashlib.sha256(secret).hexdigest()


def sign(key: str, body: bytes, at: int) -> str:
    """Return the signature header of a body.

    Args:
        key: the signing key.
        body: exactly what is sent.
        at: epoch seconds.
    """
    return f"t={at}&s={_digest(key, body, str(at))}"


def verify(keys: Sequence[str], header: str, body: bytes, now: float) -> str | None:
    """Return the key that has signed this body lately; None if none has.

    Args:
        keys: every key that may have; all are tried, in constant time.
        header: the signature header; any text.
        body: the raw body. A signature over its canonical JSON is taken, too.
        now: epoch seconds.
    """
    found = _parse(header)
    if found is None:
        return None
    at, signature = found
    if abs(now - int(at)) > FRESH:
        return None
    matched: str | None = None
    for message in _messages(body):
        for key in keys:
            if hmac.compare_digest(_digest(key, message, at), signature) and matched is None:
                matched = key
        if matched is not None:
            break
    return matched


def _parse(header: str) -> tuple[str, str] | None:
    try:
        fields = parse_qs(header, max_num_fields=8)
    except ValueError:
        return None
    at, signature = fields.get("t", [""])[0], fields.get("s", [""])[0]
    if _TIME.fullmatch(at) is None or not (signature.isascii() and signature):
        return None
    return at, signature


def _messages(body: bytes) -> Iterator[bytes]:
    """Yield what may have been signed: the body as it came, and its canonical JSON (RFC 8785)."""
    yield body
    if body[:1] not in (b"{", b"["):
        return
    try:
        canonical = canonical_json(json.loads(body)).encode("utf-8")
    except (ValueError, RecursionError):
        return
    if canonical != body:
        yield canonical


def _split(key: str) -> tuple[str, str]:
    found = _PREFIX.match(key)
    return ("", key) if found is None else (key[: found.end()], key[found.end() :])


def _digest(key: str, body: bytes, at: str) -> str:
    secret = _split(key)[1].encode("utf-8", "replace")
    return hmac.digest(secret, body + at.encode("ascii"), hashlib.sha256).hex()


# --- config ---------------------------------------------------------------------------------------

_DEV = "http://127.0.0.1:8288"
#: A host that no word can be taken for: it has a port, a dot or colons, or is this machine.
_HOST = re.compile(
    r"localhost|[\w-]+(?:\.[\w-]+)+|(?:[\w.-]+|\[[0-9a-f:.]+\]):[0-9]{1,5}|\[[0-9a-f:.]+\]", re.I
)
_CLOUD_API = "https://api.inngest.com"
_CLOUD_EVENTS = "https://inn.gs"
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off", "none"})


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
    hosts: tuple[str, ...] = ANY_HOST


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
    if dev and keys:
        logger.warning(
            "the Inngest engine is in development mode: the signing key that is set is not used, "
            "and whoever calls is taken for the server; unset INNGEST_DEV in production"
        )
        keys = ()
    own = given(serve_origin, "INNGEST_SERVE_ORIGIN")
    path = given(serve_path, "INNGEST_SERVE_PATH")
    if path and not path.startswith("/"):
        raise ConfigurationError(f"serve_path must begin with '/', not {path!r}")
    api_url = _url("base_url", api or dev_url or (_DEV if dev else _CLOUD_API))
    return Config(
        is_dev=dev,
        api_url=api_url,
        event_url=_url("event_base_url", events or dev_url or (_DEV if dev else _CLOUD_EVENTS)),
        event_key=given(event_key, "INNGEST_EVENT_KEY") or None,
        signing_keys=keys,
        environment=_environment(given(environment, "INNGEST_ENV")),
        serve_origin=_url("serve_origin", own) if own else "",
        serve_path=path,
        hosts=_hosts(allowed_hosts, _hosts_without_a_word(api_url, is_free=dev or bool(own))),
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


def _hosts_without_a_word(api_url: str, *, is_free: bool) -> tuple[str, ...]:
    """Return which hosts clients may name where nobody says so; none where that could do harm."""
    if is_free:
        return ANY_HOST
    return LOOPBACK_HOSTS if is_loopback(api_url) else ()


def _mode(is_dev: bool | None, text: str) -> tuple[bool, str]:
    """Return whether the server is a development server, and its URL if that was said.

    Raises:
        ConfigurationError: the text is neither a word for true or false nor a URL.
    """
    word = text.strip()
    is_false = not word or word.lower() in _FALSE
    url = "" if is_false or word.lower() in _TRUE else word
    if is_dev is False:
        return False, ""
    if url and "://" not in url:
        url = f"http://{url}"
        if _HOST.fullmatch(word) is None:
            raise ConfigurationError(
                "INNGEST_DEV must be 1, 0, or the URL of a development server such as "
                f"'http://127.0.0.1:8288', not {word!r}"
            )
    return not is_false if is_dev is None else is_dev, url


def _url(name: str, text: str) -> str:
    """Return a URL without a slash at its end, to which a path can be added."""
    try:
        check_url(text)
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
