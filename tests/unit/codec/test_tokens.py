"""Signed tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.tokens import event_id, sign_token, verify_token
from durable_core.errors import InvalidTokenError

SECRET = b"s" * 32
TOKEN = sign_token(SECRET, app="shop", run_id="01R", expires_at=1_000)
OPENED = ""
REFUSED = "the token does not open this run, or has expired"
SECRETS = st.binary(max_size=40)


def answer(
    token: str,
    secrets: tuple[bytes, ...] = (SECRET,),
    app: str = "shop",
    run_id: str = "01R",
    now: int = 999,
) -> str:
    """What became of the token: ``OPENED``, or the text of the error."""
    try:
        verify_token(secrets, token, app=app, run_id=run_id, now=now)
    except InvalidTokenError as error:
        return str(error)
    return OPENED


@given(SECRETS, st.text(), st.text(), st.integers(1, 2**50))
def test_a_token_opens_its_own_run_until_it_expires(
    secret: bytes, app: str, run_id: str, expires_at: int
) -> None:
    """It opens one run of one application, before its expiry and not from then on."""
    token = sign_token(secret, app=app, run_id=run_id, expires_at=expires_at)
    assert OPENED == answer(token, (secret,), app, run_id, expires_at - 1)
    assert REFUSED == answer(token, (secret,), app, run_id, expires_at)
    assert REFUSED == answer(token, (secret,), app + "x", run_id, 0)
    assert REFUSED == answer(token, (secret,), app, run_id + "x", 0)
    assert REFUSED == answer(token, (b"other" + secret,), app, run_id, 0)


def test_every_secret_verifies() -> None:
    """A token that any one of the secrets has signed is taken: secrets can be rotated."""
    assert OPENED == answer(TOKEN, (b"new", SECRET))
    assert OPENED == answer(TOKEN, (SECRET, b"old"))
    assert REFUSED == answer(TOKEN, (b"new", b"old"))
    assert REFUSED == answer(TOKEN, ())


def test_parts_cannot_be_shifted() -> None:
    """A token for app "ab" and run "c" does not open run "bc" of app "a"."""
    token = sign_token(SECRET, app="ab", run_id="c", expires_at=1_000)
    assert REFUSED == answer(token, app="a", run_id="bc")


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="utf-8"))
def test_a_token_with_one_character_changed_opens_nothing(place: int, character: str) -> None:
    """No character can be changed, the expiry and the last bits of base64 not excepted."""
    forged = TOKEN[:place] + character + TOKEN[place + 1 :]
    assert (OPENED if forged == TOKEN else REFUSED) == answer(forged)


@given(st.text(st.characters()) | st.from_regex(r"d1\.[0-9]{1,16}\.[A-Za-z0-9_-]{43}"), st.text())
def test_any_text_is_answered_with_the_one_error(token: str, run_id: str) -> None:
    """Whatever the client sends, lone surrogates too, is just an invalid token."""
    assert REFUSED == answer(token, run_id=run_id)


@pytest.mark.parametrize(
    "token",
    ["", "d1..", TOKEN + "\n", TOKEN + "=", " " + TOKEN, TOKEN.replace("d1", "d2"), "\ud800"]
    + [TOKEN.replace("1000", digits) for digits in ("01000", "1001", "9" * 100_000, "\u0661")],
    ids=range(11),
)
def test_near_misses_open_nothing(token: str) -> None:
    """A token that is nearly right is wrong."""
    assert REFUSED == answer(token)


def test_a_token_needs_no_escaping_in_a_url() -> None:
    """Only unreserved characters of RFC 3986, and short."""
    assert re.fullmatch(r"[A-Za-z0-9._~-]{1,70}", TOKEN)


@given(SECRETS, st.text(), st.text(), st.text(), st.integers(0, 1_000))
def test_event_ids_are_of_one_place_and_one_secret(
    secret: bytes, app: str, run_id: str, op_id: str, index: int
) -> None:
    """The same place in the same run gives the same id, and nothing else does."""
    place: dict[str, Any] = {
        "app": app,
        "run_id": run_id,
        "op_id": op_id,
        "index": index,
        "retry_count": 0,
    }
    made = event_id(secret, **place)
    assert made == event_id(secret, **place)
    others = {event_id(b"other" + secret, **place)} | {
        event_id(secret, **{**place, name: each + (1 if isinstance(each, int) else "x")})
        for name, each in place.items()
    }
    assert 6 == len(others - {made})


def test_an_event_id_is_no_token() -> None:
    """What a client may see of one must not help it to the other."""
    made = event_id(SECRET, app="shop", run_id="01R", retry_count=0, op_id="x", index=0)
    assert REFUSED == answer(made.replace("e1.", "d1.1000."))
