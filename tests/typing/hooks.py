"""Observers and encryption as users write them; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import assert_type

from cryptography.fernet import Fernet

from durable_core import Durable, Request, endpoint_adapter
from durable_core.observers import (
    GAUGES,
    AttemptFailed,
    Fact,
    Measures,
    ObservedRun,
    ObservedStep,
    Observer,
    RunFinished,
    RunResumed,
    RunStarted,
    StepStarted,
    read_gauge,
)
from durable_core.stores import EncryptedStore, MemoryStore


class Metrics(Observer):
    def notify(self, fact: Fact, /) -> None:
        match fact:
            case RunFinished(run=run, status=status):
                assert_type(run.id, str)
                print(status)
            case AttemptFailed(step=step, error=error):
                assert_type(step, ObservedStep | None)
                assert_type(error, BaseException | None)


class Tracing(Observer):
    """Needs no ``notify``."""

    def execution(self, fact: RunStarted | RunResumed, /) -> AbstractContextManager[object]:
        return nullcontext(fact.run)

    def attempt(self, fact: StepStarted, /) -> AbstractContextManager[object]:
        return nullcontext(fact.step)


class Duck:
    """An observer by its methods alone."""

    def notify(self, fact: Fact, /) -> None: ...

    def execution(self, fact: RunStarted | RunResumed, /) -> None: ...

    def attempt(self, fact: StepStarted, /) -> None: ...

    def trace_context(self, run: ObservedRun, /) -> str | None: ...

    def trace_headers(self) -> Mapping[str, str]:
        return {}


store = EncryptedStore(MemoryStore(), keys={"k": Fernet(b"")}, match_key=b"")
durable = Durable(
    id="typed",
    endpoint_adapter=endpoint_adapter,
    store=store,
    observers=[Metrics(), Tracing(), Duck()],
    version="v1",
)


@durable.endpoint(on_mismatch="park", omit_request_body=True, omit_response_body=True)
def order(request: Request) -> str:
    return "ok"


durable.endpoint(on_mismatch="leave")  # type: ignore[call-overload] # no such policy
EncryptedStore(MemoryStore(), keys={"k": b"key"}, match_key=b"")  # type: ignore[dict-item]
EncryptedStore(MemoryStore(), match_key=b"")  # type: ignore[call-arg]


class Counting(Observer):
    """Counts what is worth measuring, and reads the gauges."""

    measures = Measures()

    def notify(self, fact: Fact, /) -> None:
        for measured in self.measures.of(fact):
            assert_type(measured.value, float)
            print(measured.metric.name, measured.labels)

    def trace_context(self, run: ObservedRun, /) -> str | None:
        assert_type(run.method, str | None)
        return run.traceparent


assert_type(read_gauge(GAUGES[0], durable), float | None)
