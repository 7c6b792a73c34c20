"""The lifespan scope."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from durable_asgi import ASGIApp
from durable_asgi._lifespan import serve_lifespan
from durable_core import Limits
from durable_core.errors import ConfigurationError, StoreError

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


class FakeEngine:
    """An engine that notes on which loop it was started, and fails if it is told to."""

    limits = Limits()

    def __init__(self, error: Exception | None = None, *, at: str = "start") -> None:
        self.calls: list[object] = []
        self._errors = {at: error}

    def start(self, *, server_threads: int | None = None) -> None:
        self.calls.append(asyncio.get_running_loop())
        self._fail("start")

    def drain(self) -> None:
        self.calls.append("drain")

    def stop(self, timeout: float) -> None:
        with pytest.raises(RuntimeError):  # not on a loop, whose tasks have to end meanwhile
            asyncio.get_running_loop()
        self.calls.append(timeout)
        self._fail("stop")

    def run_on_background_loop(self, awaitable: Any) -> Any:
        raise AssertionError("there is nothing to be awaited")

    def _fail(self, at: str) -> None:
        error = self._errors.get(at)
        if error is not None:
            raise error


def lifespan(engine: FakeEngine) -> tuple[Sequence[Any], asyncio.AbstractEventLoop]:
    """Live a whole life; return what was sent, and the loop it was on."""

    async def main() -> tuple[Sequence[Any], asyncio.AbstractEventLoop]:
        messages = iter((STARTUP, SHUTDOWN))
        sent: list[Any] = []

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        await serve_lifespan(engine, receive, send)
        return sent, asyncio.get_running_loop()

    return asyncio.run(main())


def test_start_and_stop() -> None:
    """The engine starts on the server's loop, which becomes that of its handlers, and stops."""
    engine = FakeEngine()
    sent, loop = lifespan(engine)

    assert [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}] == sent
    assert [loop, 10.0] == engine.calls


def test_startup_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The server is told why, and nothing else is asked of it."""
    sent, _ = lifespan(FakeEngine(StoreError("the disk is gone")))

    assert [
        {"type": "lifespan.startup.failed", "message": "StoreError: the disk is gone"},
    ] == sent
    assert ["could not start"] == caplog.messages


def test_shutdown_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The server is told why."""
    sent, _ = lifespan(FakeEngine(StoreError("the disk is gone"), at="stop"))

    assert {"type": "lifespan.shutdown.failed", "message": "StoreError: the disk is gone"} == sent[
        1
    ]
    assert ["could not stop in good order"] == caplog.messages


def test_another_event_loop() -> None:
    """A server that runs the application on trio's loop is told so at its start."""
    sent: list[Any] = []
    engine = FakeEngine()

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(StopIteration):
        serve_lifespan(engine, receive, send).send(None)

    [message] = sent
    assert "lifespan.startup.failed" == message["type"]
    assert "hypercorn: -k asyncio" in message["message"]
    assert [] == engine.calls


def test_a_request_on_another_event_loop() -> None:
    """Without a lifespan the first request says so, too."""
    with pytest.raises(ConfigurationError, match="hypercorn: -k asyncio"):
        ASGIApp(cast(Any, None))({"type": "http"}, cast(Any, None), cast(Any, None)).send(None)
