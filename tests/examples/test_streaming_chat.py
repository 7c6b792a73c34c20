"""The chat example, served for real and asked by its own terminal client."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from durable_wsgi import create_endpoint_server
from support.source_tree import ROOT

CLEAR = "\r\x1b[J"


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example, with a store of the test's own and a model in a hurry."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(
        "streaming_chat", ROOT / "examples" / "streaming_chat.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "WORDS_A_SECOND", 1000)
    yield module
    module.durable.stop()


def test_the_answer_is_taken_back_and_finished(chat: ModuleType) -> None:
    """The terminal shows the first half, then nothing, and then the whole answer word by word."""
    screen = io.StringIO()
    with create_endpoint_server(chat.chat).listen(0) as server:
        answer = chat.ask(server.url, "How do I make tea?", screen)

    frames = screen.getvalue().removesuffix("\n").split(CLEAR)[1:]
    words = chat.ANSWER.split(" ")
    written = [" ".join(words[: number + 1]) for number in range(len(words))]
    half = len(words) // 2

    assert chat.ANSWER == answer
    assert [*written[:half], "", *written] == frames
