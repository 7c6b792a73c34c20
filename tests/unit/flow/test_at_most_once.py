"""``step.options(at_most_once=True)``: what is stored before the call, and what a crash leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import StepArgumentError, StepError, StepInterrupted
from durable_core.http.request import Request
from support.harness import Ledger, WatchedStore, lab, request, until

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])


def handler_of(
    asynchronous: bool, options: dict[str, Any], fn: Callable[..., Any], *args: Any
) -> Callable[[Request], Any]:
    """Return a handler with one such step; it answers with the result, or the error."""

    def sync(request: Request) -> object:
        try:
            return sync_step.options(at_most_once=True, **options).run("pay", fn, *args)
        except StepError as error:
            return f"{type(error).__name__} {error.name}: {error.message}"

    async def async_(request: Request) -> object:
        try:
            return await step.options(at_most_once=True, **options).run("pay", fn, *args)
        except StepError as error:
            return f"{type(error).__name__} {error.name}: {error.message}"

    return async_ if asynchronous else sync


def finish(handler: Callable[[Request], Any], store: WatchedStore | None = None) -> bytes:
    with lab(store) as process:
        body = process.call(process.endpoint(handler)).body
    assert isinstance(body, bytes)
    return body


@both
def test_begun_is_durable_before_the_call(asynchronous: bool) -> None:
    """One commit more than usual: that it begins, and how it has ended."""
    store = WatchedStore()

    def work() -> str:
        store.log.append("call")
        return "done"

    assert b'"done"' == finish(handler_of(asynchronous, {}, work), store)
    assert ["commit", "call", "commit"] == store.log
    assert 1 == sum(store.memos().values())


@both
def test_a_crash_during_the_call(asynchronous: bool) -> None:
    """Another process does not call it again; the handler is told that nobody knows."""
    store, ledger = WatchedStore(), Ledger()

    def work() -> None:
        ledger.did("pay", None)
        store.crash_after(0)

    handler = handler_of(asynchronous, {"retries": 5}, work)
    with lab(store) as process:
        process.endpoint(handler).handle(request())
        until(store.crashed.is_set)
        [record] = process.records.list()
        [shown] = process.durable.runs.get(record.run.id).steps
        assert ("begun", None, 0) == (shown.status, shown.error, shown.attempts)
    store.recover()
    with lab(store) as process:
        process.endpoint(handler)
        process.durable.start()
        until(lambda: process.records.list()[0].run.phase.ended)
        [record] = process.records.list()
        [memo] = process.records.get(record.run.id).memos
        [failed] = process.records.get(record.run.id).failed_attempts
    assert (False, 1) == (memo.ok, memo.attempts)
    assert "StepInterrupted" == failed.error_name
    assert {"pay": 1} == ledger.counts()


@both
def test_an_error_is_not_retried(asynchronous: bool) -> None:
    """The function has begun once, and that was all; with ``retries`` an error is retried."""
    ledger = Ledger()
    fails = (ledger.fails, "pay", 1, ValueError("no"), "paid")

    assert b'"StepError ValueError: no"' == finish(handler_of(asynchronous, {}, *fails))
    assert {"pay": 1} == ledger.counts()
    ledger.failed.clear()
    assert b'"paid"' == finish(handler_of(asynchronous, {"retries": 1}, *fails))
    assert {"pay": 3} == ledger.counts()


def test_a_crash_in_a_later_attempt() -> None:
    """What the store has of the first attempt does not let another one begin."""
    store, ledger = WatchedStore(), Ledger()

    def work() -> None:
        ledger.did("pay", None)
        if len(ledger.calls) == 2:
            store.crash_after(0)
        raise ValueError("no")

    seen: list[StepError] = []

    def handler(request: Request) -> str:
        try:
            sync_step.options(at_most_once=True, retries=5).run("pay", work)
        except StepInterrupted as error:
            seen.append(error)
        return "end"

    with lab(store) as process:
        process.endpoint(handler).handle(request())
        until(store.crashed.is_set)
    store.recover()
    with lab(store) as process:
        process.endpoint(handler)
        process.durable.start()
        until(lambda: process.records.list()[0].run.phase.ended)
    assert ["StepInterrupted"] == [error.name for error in seen]
    assert {"pay": 2} == ledger.counts()


@pytest.mark.parametrize("value", [1, "yes"])
def test_it_is_a_bool(value: Any) -> None:
    """Anything else is refused where it is written."""
    with pytest.raises(StepArgumentError, match="at_most_once must be True or False"):
        sync_step.options(at_most_once=value)
