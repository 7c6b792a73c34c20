"""What is made with the application's secret, so that nobody else can make it.

Signed tokens each open the result of one run until they expire.

A token is ``d1.<expiry>.<signature>``: the expiry in epoch milliseconds and the URL-safe base64 of
an HMAC-SHA256 (RFC 2104) over version, application, run and expiry. It holds nothing secret itself.
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
    "is_ulid",
    "make_ulid",
    "sign_token",
    "ulid_time",
    "verify_token",
]


# --- ulid -----------------------------------------------------------------------------------------
#
# ULIDs: 26 characters of Crockford base 32 that sort by time (github.com/ulid/spec).

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: Two digits for each ten bits: half the lookups of one digit for each five.
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_ULID_SHAPE = re.compile(f"[0-7][{_DIGITS}]{{25}}")
_AS_PYTHON_DIGITS = str.maketrans(_DIGITS, "0123456789abcdefghijklmnopqrstuv")


def make_ulid(ms: int, entropy: bytes) -> str:
    """Return a ULID.

    Args:
        ms: epoch milliseconds, 0 to 2**48 - 1.
        entropy: exactly 10 random bytes.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 <= ms < 1 << 48:
        raise ValueError(f"the time of a ULID must be 0 to 2**48 - 1 milliseconds, not {ms}")
    if len(entropy) != 10:
        raise ValueError(f"a ULID takes 10 random bytes, not {len(entropy)}")
    first, last = int.from_bytes(entropy[:5], "big"), int.from_bytes(entropy[5:], "big")
    pairs = _PAIRS
    return (
        f"{pairs[ms >> 40]}{pairs[ms >> 30 & 1023]}{pairs[ms >> 20 & 1023]}"
        f"{pairs[ms >> 10 & 1023]}{pairs[ms & 1023]}"
        f"{pairs[first >> 30]}{pairs[first >> 20 & 1023]}"
        f"{pairs[first >> 10 & 1023]}{pairs[first & 1023]}"
        f"{pairs[last >> 30]}{pairs[last >> 20 & 1023]}"
        f"{pairs[last >> 10 & 1023]}{pairs[last & 1023]}"
    )


def ulid_time(text: str) -> int:
    """Return the epoch milliseconds of a ULID; ``ValueError`` if it is none."""
    if not is_ulid(text):
        raise ValueError("not a ULID: it must be 26 characters of Crockford base 32, upper case")
    return int(text[:10].translate(_AS_PYTHON_DIGITS), 32)


def is_ulid(text: str) -> bool:
    """Tell whether the text is a ULID in canonical form (upper case)."""
    return _ULID_SHAPE.fullmatch(text) is not None


# --- tokens ---------------------------------------------------------------------------------------

_TOKEN_SHAPE = re.compile(r"d1\.([0-9]{1,16})\.([A-Za-z0-9_-]{43})")


def sign_token(secret: bytes, *, app: str, run_id: str, expires_at: int) -> str:
    """Return a token for one run, of printable characters that need no escaping in a URL.

    Args:
        secret: the signing key; 32 random bytes are right.
        app: the id of the application the run belongs to.
        run_id: the run.
        expires_at: epoch milliseconds (0 to 9999999999999999) from which it opens nothing.
    """
    expiry = str(expires_at)
    return f"d1.{expiry}.{_signature(secret, app, run_id, expiry)}"


def verify_token(secrets: Sequence[bytes], token: str, *, app: str, run_id: str, now: int) -> int:
    """Return until when the token opens this run, epoch milliseconds.

    Args:
        secrets: every key that may have signed it. All are tried, in constant time.
        token: what the client sent; any text.
        app: the id of the application.
        run_id: the run the client wants, known or not; any text.
        now: epoch milliseconds.

    Raises:
        InvalidTokenError: always with the same text, whatever is wrong.
    """
    shape = _TOKEN_SHAPE.fullmatch(token)
    expiry, signature = shape.groups() if shape is not None else ("0", "")
    signed = False
    for secret in secrets:
        expected = _signature(secret, app, run_id, expiry)
        signed |= hmac.compare_digest(expected.encode(), signature.encode())
    if not signed or int(expiry) <= now:
        raise InvalidTokenError("the token does not open this run, or has expired")
    return int(expiry)


def event_id(secret: bytes, *, app: str, run_id: str, op_id: str, index: int) -> str:
    """Return the id of an event that a step sends without one: always the same for that step.

    Events with an id that is stored already are not stored again, so a client that knew it
    beforehand (it knows its run's id) could take it, and suppress the event.
    """
    return f"e1.{_mac(secret, ('e1', app, run_id, op_id, str(index)))}"


def _signature(secret: bytes, app: str, run_id: str, expiry: str) -> str:
    return _mac(secret, ("d1", app, run_id, expiry))


def _mac(secret: bytes, texts: tuple[str, ...]) -> str:
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    # Each part goes with its length: no two different lists of parts sign the same bytes.
    message = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    digest = hmac.digest(secret, message, hashlib.sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
