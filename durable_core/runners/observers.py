"""Facts go to observers; the log is one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from durable_core.errors import ControlSignal
from durable_core.flow.effects import Notify
from durable_core.flow.facts import run_facts
from durable_core.http.headers import Headers, is_traceparent, trace_id_of
from durable_core.model.fact import (
    AttemptFailed,
    Fact,
    ObservedRun,
    RunFinished,
    RunHandedOff,
    RunNoted,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepStarted,
    StoreFault,
)
from durable_core.model.run import Run
from durable_core.platform import logger, run_logger
from durable_core.ports.observer import Observer

__all__ = ["Entered", "LogObserver", "Observers"]

#: The observers of this process that have raised; each is logged once.
_BROKEN: list[Observer] = []


class LogObserver(Observer):
    """Writes the messages of facts to the log."""

    def notify(self, fact: Fact, /) -> None:
        """Write the message of a fact that has one."""
        match fact:
            case RunHandedOff() | RunSuspended() | RunResumed():
                _logger_of(fact.run).info("%s", fact.message)
            case RunFinished(message=text) | AttemptFailed(message=text) if text:
                log = _logger_of(fact.run)
                log.log(_level(fact), "%s", text, exc_info=fact.error)
            case RunNoted():
                log = _logger_of(fact.run)
                log.log(fact.level, "%s", fact.message, exc_info=fact.error)
            case StoreFault(run=None, message=text) if text:
                logger.error("%s", text)
            case StoreFault(run=ObservedRun() as run, message=text):
                _logger_of(run).error("%s", text)


def _logger_of(run: ObservedRun) -> logging.LoggerAdapter[logging.Logger]:
    return run_logger(run.id, run.name, trace_id_of(run.traceparent))


def _level(fact: RunFinished | AttemptFailed) -> int:
    if isinstance(fact, AttemptFailed):
        return logging.WARNING
    return logging.ERROR if fact.status == "failed" else logging.INFO


class Observers:
    """All observers of an application in this process. What one of them raises harms nothing.

    Args:
        observers: those of the application.

    Attributes:
        watched: there are some beside the log.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = (LogObserver(), *observers)
        self.watched = bool(observers)

    def perform(self, effect: Notify) -> None:
        """Notify each observer of the fact of a flow, if anybody listens."""
        if self.watched or logger.isEnabledFor(effect.level):
            self.notify(effect.make())

    def notify(self, fact: Fact) -> None:
        """Notify each observer."""
        for observer in self._observers:
            try:
                observer.notify(fact)
            except (Exception, ControlSignal) as error:
                _log_once(observer, error)

    def enter_execution(self, fact: RunStarted | RunResumed) -> Entered:
        """Enter the contexts of an execution of a handler, and return them."""
        entered = Entered()
        for observer in self._observers:
            entered.enter(observer, lambda each: each.execution(fact))
        return entered

    def enter_attempt(self, fact: StepStarted) -> Entered:
        """Enter the contexts of an attempt of a step, and return them."""
        entered = Entered()
        for observer in self._observers:
            entered.enter(observer, lambda each: each.attempt(fact))
        return entered

    def in_trace(self, run: Run) -> Run:
        """Return a new run with the trace context that an observer gives it, or its own."""
        facts = run_facts(run)
        for observer in self._observers:
            try:
                traceparent = observer.trace_context(facts)
                if traceparent is None:
                    continue
                if not is_traceparent(traceparent):
                    raise ValueError(f"trace_context() must return a traceparent: {traceparent!r}")
                return replace(run, traceparent=traceparent)
            except (Exception, ControlSignal) as error:
                _log_once(observer, error)
        return run

    def trace_headers(self) -> Sequence[tuple[str, str]]:
        """Return the header fields that carry the current trace context."""
        fields: dict[str, str] = {}
        for observer in self._observers:
            try:
                fields.update(Headers(observer.trace_headers()).raw)
            except (Exception, ControlSignal) as error:
                _log_once(observer, error)
        return tuple(fields.items())


class Entered:
    """The contexts of observers that were entered; left in the reverse order."""

    def __init__(self) -> None:
        self._entered: list[tuple[Observer, AbstractContextManager[object]]] = []

    def enter(
        self,
        observer: Observer,
        make: Callable[[Observer], AbstractContextManager[object] | None],
    ) -> None:
        """Enter the context that an observer makes, if it makes one."""
        try:
            context = make(observer)
            if context is not None:
                context.__enter__()
                self._entered.append((observer, context))
        except (Exception, ControlSignal) as error:
            _log_once(observer, error)

    def leave(self, error: BaseException | None) -> None:
        """Leave all contexts with what was raised in them; None if nothing was."""
        kind = None if error is None else type(error)
        trace = None if error is None else error.__traceback__
        while self._entered:
            observer, context = self._entered.pop()
            try:
                context.__exit__(kind, error, trace)
            except (Exception, ControlSignal) as broken:
                if broken is not error:  # a generator raises again what it does not handle
                    _log_once(observer, broken)


def _log_once(observer: Observer, error: BaseException) -> None:
    if any(each is observer for each in _BROKEN):
        return
    _BROKEN.append(observer)
    text = "observer %r has raised; what else it raises is not logged"
    logger.error(text, observer, exc_info=error)
