"""Signatures on requests and answers, and the key that stands in the Authorization header.

Both come from one signing key, by different ways: a signature is keyed with the text behind the
key's prefix, the bearer token is the SHA-256 of the bytes that this text spells in hexadecimal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qs

from durable_core.errors import ConfigurationError
from durable_core.wire.codec import canonical_json

__all__ = ["FRESH", "hashed_key", "sign", "verify"]

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
