"""What a run streams."""

from __future__ import annotations

from durable_core.model.stream import ChunkBatch


def test_size_is_in_bytes() -> None:
    """The size of a piece counts bytes of UTF-8, not characters."""
    assert 7 == ChunkBatch(number=1, texts=('"a"', '"é"')).size
