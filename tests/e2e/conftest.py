"""What the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A store and a ledger of the test's own; its processes are gone afterwards."""
    world = World(tmp_path)
    try:
        yield world
    finally:
        world.destroy()


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> str:
    """Both kinds of handlers."""
    face: str = request.param
    return face
