"""ULIDs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.platform import is_ulid, make_ulid, ulid_time

TIMES = st.integers(0, 2**48 - 1)
ENTROPY = st.binary(min_size=10, max_size=10)
DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def in_base_32(number: int) -> str:
    return "".join(DIGITS[number >> 5 * place & 31] for place in range(25, -1, -1))


@given(TIMES, ENTROPY)
def test_it_is_time_and_entropy_in_base_32(ms: int, entropy: bytes) -> None:
    """The text is the 128-bit number of 48 bits of time and 80 of entropy."""
    text = make_ulid(ms, entropy)
    assert in_base_32(ms << 80 | int.from_bytes(entropy, "big")) == text
    assert ms == ulid_time(text)
    assert is_ulid(text)


@given(TIMES, ENTROPY, TIMES, ENTROPY)
def test_texts_sort_like_times_and_entropy(a: int, b: bytes, c: int, d: bytes) -> None:
    """The order of texts is the order of times, then of entropy."""
    assert ((a, b) < (c, d)) == (make_ulid(a, b) < make_ulid(c, d))


def test_the_example_of_the_specification() -> None:
    """The time of the specification's own example."""
    assert ulid_time("01ARYZ6S41TSV4RRFFQ69G5FAV") == 1469918176385


@pytest.mark.parametrize(("ms", "size"), [(-1, 10), (2**48, 10), (0, 9), (0, 11)])
def test_arguments_out_of_range_are_refused(ms: int, size: int) -> None:
    """The time has 48 bits, the entropy 10 bytes."""
    with pytest.raises(ValueError, match="ULID"):
        make_ulid(ms, b"\x00" * size)


@pytest.mark.parametrize(
    "text",
    ["", "0" * 25, "0" * 27, "8" + "0" * 25, "0" * 25 + "U", "0" * 25 + "a", "0" * 26 + "\n"],
)
def test_other_text_is_no_ulid(text: str) -> None:
    """Wrong length, over 128 bits, and characters outside the alphabet."""
    assert not is_ulid(text)
    with pytest.raises(ValueError, match="not a ULID"):
        ulid_time(text)
