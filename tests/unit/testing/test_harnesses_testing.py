"""The way into a harness, and out of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from durable_core import Durable, Request, RetryPolicy, Settings, endpoint_adapter
from durable_core.engine.embedded import EmbeddedEngine, embedded
from durable_core.errors import ConfigurationError, UnusedFaultError
from durable_core.sync import step
from durable_core.testing.harnesses import harness
from support.harness_sample import plain_app, sample


def test_the_application_is_as_it_was(tmp_path: Path) -> None:
    """Store, clock, settings and policy are the test's within the block, its own afterwards."""
    policy, settings = RetryPolicy(base="10ms", jitter=1), Settings(max_own_wait=3.0)
    durable = Durable(
        id="own",
        endpoint_adapter=endpoint_adapter,
        engine=EmbeddedEngine(tmp_path / "own.db", settings=settings),
        retry=policy,
    )
    engine = embedded(durable.engine)
    own = (engine.env, engine.store, engine.settings)

    with harness(durable, start=datetime(2040, 1, 1, tzinfo=UTC)) as t:
        assert t.clock is engine.env.clock
        assert 2040 == t.clock.time.year
        assert RetryPolicy(base="10ms", jitter=0) == engine.env.policy
        assert durable.health()["started"]

    assert own == (engine.env, engine.store, engine.settings)
    assert not durable.health()["started"]
    assert [] == list(tmp_path.iterdir())


def test_nothing_is_left_for_the_next_test() -> None:
    """Each block has an empty store."""
    app = sample("def")
    for _ in range(2):
        with harness(app.durable) as t:
            t.client(app.order).get("/order?id=7")
            assert 1 == len(t.runs())


def test_a_started_application_is_refused(tmp_path: Path) -> None:
    """It has a store of its own open; nothing is changed."""
    durable = Durable(id="own", endpoint_adapter=endpoint_adapter, store=tmp_path / "own.db")
    durable.start()
    try:
        with pytest.raises(ConfigurationError, match="works already"), harness(durable):
            pass
        assert durable.health()["started"]
    finally:
        durable.stop()


def test_plain_with_on_a_loop_is_refused() -> None:
    """It would block the loop that handlers need."""

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="async with"), harness(plain_app()):
            pass

    asyncio.run(main())


def test_unused_faults_are_errors() -> None:
    """A plan that names no step of the handler does not go unnoticed, in either kind of test."""
    app = sample("def")

    async def main() -> None:
        async with harness(app.durable) as t:
            t.crash_after("chrage")

    with pytest.raises(UnusedFaultError, match="fail_step"), harness(app.durable) as t:
        t.fail_step("chrage")
    with pytest.raises(UnusedFaultError, match="crash_after"):
        asyncio.run(main())


def test_the_errors_of_the_test_itself_come_first() -> None:
    """What the test raises is not hidden by a fault it did not come to use."""
    durable = plain_app()

    def sync_test() -> None:
        with harness(durable) as t:
            t.fail_step("x")
            raise KeyError("mine")

    async def main() -> None:
        async with harness(durable) as t:
            t.fail_step("x")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sync_test()
    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())
    assert not durable.health()["started"]


def test_stopped_within_the_block() -> None:
    """An application that the test stops is told from one that works."""
    durable = plain_app()

    @durable.endpoint(function_id="it")
    def endpoint(request: Request) -> None:
        step.run("one", int)

    with harness(durable) as t:
        durable.stop()
        with pytest.raises(ConfigurationError, match="stopped within its harness"):
            t.advance("1s")
