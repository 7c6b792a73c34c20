"""The keys that sign the tokens of wait URLs, and their rotation."""

from __future__ import annotations

import os
from collections.abc import Sequence

from durable_core.ports import RotateSecret, StoredSecret

__all__ = ["new_secret", "signing_order"]

#: A new secret signs after this time, milliseconds. By then each process verifies by it, since each
#: reads the secrets again every two seconds.
_PUBLISHED_AFTER = 5_000


def signing_order(secrets: Sequence[StoredSecret], now: int) -> tuple[bytes, ...]:
    """Return the values, the one that signs now first.

    It is the newest one that all processes know by now, or the oldest one if none is so old.

    Args:
        secrets: at least one, the newest first.
        now: epoch milliseconds.
    """
    known = (each for each in secrets if each.created_at + _PUBLISHED_AFTER <= now)
    signing = next(known, secrets[-1])
    others = [each.value for each in secrets if each is not signing]
    return signing.value, *others


def new_secret(now: int, token_ttl: int, *, revoke: bool) -> RotateSecret:
    """Return the message that adds a random secret.

    Args:
        now: epoch milliseconds.
        token_ttl: how long a token is valid, milliseconds: secrets that were replaced before that
            verify nothing that is still valid, and are removed.
        revoke: remove all older secrets. No token that they have signed is valid any more.
    """
    replaced_before = now + 1 if revoke else now - token_ttl
    return RotateSecret(secret=os.urandom(32), now=now, replaced_before=replaced_before)
