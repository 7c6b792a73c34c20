"""The tokens and event ids that are made with the application's secret.

A signed token gives access to the result of one run until it expires. It is
``d1.<expiry>.<signature>``: the expiry in epoch milliseconds and the URL-safe base64 of an
HMAC-SHA256 (RFC 2104) over version, application, run and expiry. It contains no secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence

from durable_core.errors import InvalidTokenError

__all__ = [
    "event_id",
    "request_fingerprint",
    "sign_callback",
    "sign_token",
    "verify_callback",
    "verify_token",
]

_TOKEN_SHAPE = re.compile(r"d1\.([0-9]{1,16})\.([A-Za-z0-9_-]{43})")
_CALLBACK_SHAPE = re.compile(r"c1\.([0-9a-f]{40})\.([A-Za-z0-9_-]{43})")


def sign_token(secret: bytes, *, app: str, run_id: str, expires_at: int) -> str:
    """Return a token for one run, of printable characters that need no escaping in a URL.

    Args:
        secret: the signing key; use 32 random bytes.
        app: the id of the application the run belongs to.
        run_id: the run.
        expires_at: the time from which it is invalid, epoch milliseconds, 0 to 9999999999999999.
    """
    expiry = str(expires_at)
    return f"d1.{expiry}.{_mac(secret, ('d1', app, run_id, expiry))}"


def verify_token(secrets: Sequence[bytes], token: str, *, app: str, run_id: str, now: int) -> int:
    """Return the time at which the token for this run expires, epoch milliseconds.

    Args:
        secrets: every key that may have signed it. All are tried, in constant time.
        token: the text that the client sent; any text.
        app: the id of the application.
        run_id: the run that the client asked for, known or not; any text.
        now: epoch milliseconds.

    Raises:
        InvalidTokenError: the token is wrong or has expired; the text is always the same.
    """
    shape = _TOKEN_SHAPE.fullmatch(token)
    expiry, signature = shape.groups() if shape is not None else ("0", "")
    is_signed = _is_signed(secrets, ("d1", app, run_id, expiry), signature)
    if not is_signed or int(expiry) <= now:
        raise InvalidTokenError("the token does not open this run, or has expired")
    return int(expiry)


def sign_callback(secret: bytes, *, app: str, run_id: str, op_id: str) -> str:
    """Return the token by which one wait of a run is answered. It is the same at every call.

    Args:
        secret: the signing key; use 32 random bytes.
        app: the id of the application.
        run_id: the run.
        op_id: the step that waits, hexadecimal.
    """
    return f"c1.{op_id}.{_mac(secret, ('c1', app, run_id, op_id))}"


def verify_callback(secrets: Sequence[bytes], token: str, *, app: str, run_id: str) -> str:
    """Return the id of the step whose wait the token answers; see :func:`verify_token`.

    Raises:
        InvalidTokenError: the token is wrong; the text is always the same.
    """
    shape = _CALLBACK_SHAPE.fullmatch(token)
    op_id, signature = shape.groups() if shape is not None else ("", "")
    if not _is_signed(secrets, ("c1", app, run_id, op_id), signature):
        raise InvalidTokenError("the token does not answer a wait of this run")
    return op_id


def event_id(
    secret: bytes, *, app: str, run_id: str, retry_count: int, op_id: str, index: int
) -> str:
    """Return the id for an event that a step sends without one. It is the same in every attempt.

    Once a failed run is retried it is another one: a step that is executed again sends again.

    The id is secret: an event whose id is already stored is not stored again. A client knows its
    run's id; if it could compute the event's id too, it could send an event with this id first,
    and so suppress the step's event.
    """
    place = app, run_id, str(retry_count), op_id, str(index)
    return f"e1.{_mac(secret, ('e1', *place))}"


def request_fingerprint(secret: bytes, *, app: str, digest: str) -> str:
    """Return what is stored of a request with a key, to tell it from others.

    Without the secret nobody can find out, by trying, which credentials the request had.

    Args:
        secret: a key of the application.
        app: the id of the application.
        digest: a hash of the request.
    """
    return f"k1.{_mac(secret, ('k1', app, digest))}"


def _is_signed(secrets: Sequence[bytes], texts: tuple[str, ...], signature: str) -> bool:
    """Tell whether one of the secrets has made a signature, in constant time."""
    signed = False
    for secret in secrets:
        signed |= hmac.compare_digest(_mac(secret, texts).encode(), signature.encode())
    return signed


def _mac(secret: bytes, texts: tuple[str, ...]) -> str:
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    # Each part has its length in front, so two different lists of parts never give the same bytes.
    message = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    digest = hmac.digest(secret, message, hashlib.sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
