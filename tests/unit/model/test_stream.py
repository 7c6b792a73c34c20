"""What a run streams."""

from __future__ import annotations

from durable_core.model.stream import ChunkBatch, split_texts


def test_size_is_in_bytes() -> None:
    """The size of a piece counts bytes of UTF-8, not characters."""
    assert 7 == ChunkBatch(number=1, texts=('"a"', '"é"')).size


def test_chunks_are_split_into_batches_of_64_kib() -> None:
    """In order and without a gap; a chunk that is larger is a batch of its own."""
    large, half, text = "x" * 70_000, "\N{SNOWMAN}" * 11_000, "y" * 30_000

    batches = split_texts([half, text, text, "1", large, "2"])

    assert [(0, (half, text)), (2, (text, "1")), (4, (large,)), (5, ("2",))] == list(batches)
    assert [(0, ("1",))] == list(split_texts(["1"]))
