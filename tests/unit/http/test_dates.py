"""Times in header fields."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from durable_core.http.headers import http_date


def test_the_example_of_the_standard() -> None:
    """It is the one of RFC 9110 section 5.6.7."""
    assert "Sun, 06 Nov 1994 08:49:37 GMT" == http_date(784111777_999)


@pytest.mark.parametrize("ms", [0, 951_782_400_000, 1_796_000_000_000, 4_102_444_800_000])
def test_others_read_it(ms: int) -> None:
    """The standard library reads the same moment."""
    assert ms == parsedate_to_datetime(http_date(ms)).timestamp() * 1000
