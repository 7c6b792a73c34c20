"""The server that the tests of the Inngest engine run against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.inngest_handlers import CALLS
from support.inngest_server import InngestServer, inngest_server


@pytest.fixture
def server() -> Iterator[InngestServer]:
    """A development server."""
    CALLS.clear()
    with inngest_server() as serving:
        yield serving
