"""Context: which run, step and attempt code belongs to, in logs and in threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
import structlog

from durable_core.api.run import LogContext, current_run
from durable_core.api.step import step, sync_step
from durable_core.errors import StepUsageError
from durable_core.http.request import Request
from support.harness import lab

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
WHO: ContextVar[str] = ContextVar("who", default="nobody")
LOGGER = logging.getLogger("app")


class Kept(logging.Handler):
    """Keeps what its formatter makes of records."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.addFilter(LogContext())
        self.setFormatter(logging.Formatter("%(step)s %(attempt)s %(message)s %(run_id)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.lines.append(self.format(record))


def run_both(
    asynchronous: bool, work: Callable[[], Any], **options: Any
) -> Callable[[Request], Any]:
    """Return a handler that logs, sets the context, and does the work in a step."""

    def sync(request: Request) -> str:
        WHO.set("handler")
        LOGGER.warning("handler")
        sync_step.options(**options).run("it", work)
        return WHO.get()

    async def async_(request: Request) -> str:
        WHO.set("handler")
        LOGGER.warning("handler")
        await step.options(**options).run("it", work)
        return WHO.get()

    return async_ if asynchronous else sync


@both
@pytest.mark.parametrize("timeout", [None, "1m"])
def test_log_records_say_where_they_come_from(asynchronous: bool, timeout: str | None) -> None:
    """A record has the run; in a step it has the step, and the number of the attempt."""
    kept, attempts = Kept(), list[int]()
    LOGGER.addHandler(kept)

    def work() -> None:
        current = step if asynchronous else sync_step
        attempts.append(current.attempt)
        LOGGER.warning(WHO.get())
        WHO.set("step")
        if current.attempt < 2:
            raise ValueError("once more")

    try:
        with lab() as process:
            response = process.call(process.endpoint(run_both(asynchronous, work, timeout=timeout)))
            [record] = process.records.list()
        LOGGER.warning("outside")
    finally:
        LOGGER.removeHandler(kept)
    run_id = record.run.id
    assert [1, 2] == attempts
    # Each line once: an 'async def' handler may go on after the failure, or be replayed.
    assert [
        f"None 1 handler {run_id}",
        f"it 1 handler {run_id}",
        f"it 2 handler {run_id}",
        "None None outside None",
    ] == list(dict.fromkeys(kept.lines))
    # A plain function of a 'def' handler runs in the handler's own context, without a time limit.
    own_context = not asynchronous and timeout is None
    assert response.body == (b'"step"' if own_context else b'"handler"')


def test_own_attributes_of_a_record_stay() -> None:
    """What the caller gives goes before."""
    record = logging.makeLogRecord({"msg": "x", "step": "mine"})
    assert LogContext().filter(record)
    assert ("mine", None) == (vars(record)["step"], vars(record)["run_id"])


@both
def test_structlog(asynchronous: bool) -> None:
    """Its processor adds the same; what is bound in the handler is seen in a step's thread."""
    events: list[dict[str, Any]] = []

    def keep(logger: object, method: str, event: Any) -> Any:
        events.append(dict(event))
        raise structlog.DropEvent

    processors: list[Any] = [structlog.contextvars.merge_contextvars, LogContext(), keep]
    log = structlog.wrap_logger(None, processors=processors)

    def sync(request: Request) -> None:
        structlog.contextvars.bind_contextvars(user="ann")
        sync_step.options(timeout="1m").run("it", lambda: log.info("in a step"))
        log.info("in the handler")

    async def async_(request: Request) -> None:
        structlog.contextvars.bind_contextvars(user="ann")
        await step.run("it", lambda: log.info("in a step"))
        log.info("in the handler")

    with lab() as process:
        process.call(process.endpoint(async_ if asynchronous else sync))
        [record] = process.records.list()
    log.info("outside")
    shared = {"user": "ann", "run_id": record.run.id, "attempt": 1}
    assert [
        {"event": "in a step", "step": "it", **shared},
        {"event": "in the handler", **shared},
        {"event": "outside"},
    ] == events


def test_current_run_names_the_step() -> None:
    """Inside a step it says which one; outside steps it does not."""

    async def work() -> list[object]:
        await asyncio.sleep(0)
        known = current_run()
        assert known is not None
        return [known.step, known.step_attempt]

    async def handler(request: Request) -> list[object]:
        known = current_run()
        assert known is not None
        return [*await step.run("it", work), known.step, known.step_attempt]

    with lab() as process:
        body = process.call(process.endpoint(handler)).body
    assert b'["it",1,null,null]' == body


@pytest.mark.parametrize("steps", [step, sync_step], ids=["async", "def"])
def test_attempt_outside_steps(steps: Any) -> None:
    """There it has no meaning, and says what has."""
    with pytest.raises(StepUsageError, match=r"run\.attempt is the handler's own"):
        _ = steps.attempt
