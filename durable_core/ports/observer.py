"""Who is notified of what happens to runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from durable_core.model.fact import Fact, ObservedRun, RunResumed, RunStarted, StepStarted

__all__ = ["Observer"]


class Observer(Protocol):
    """Is notified of what happens to the runs of an application in this process.

    A class that derives from this one overrides what it needs. The methods are called in the thread
    in which something happens, on an event loop for ``async def`` handlers, and between two steps:
    they must be quick, must not block, and may be called by several threads at a time. They may not
    call steps. One that raises is logged once in a process, and harms nothing.
    """

    def notify(self, fact: Fact, /) -> None:
        """Take a fact. Those of one branch of a handler come in the order in which they happen."""
        return  # else a type checker would take the method for abstract

    def execution(self, fact: RunStarted | RunResumed, /) -> AbstractContextManager[object] | None:
        """Return a context for one execution of the handler; None for none.

        It is entered in the thread or task that then calls the handler, after :meth:`notify`, so
        that context variables which it sets are seen there. It is left with what the handler has
        raised, as a ``with`` block would be, but cannot swallow that.
        """
        return None

    def attempt(self, fact: StepStarted, /) -> AbstractContextManager[object] | None:
        """Return a context for one attempt of a step's function; None for none.

        As :meth:`execution`, around the call of the function. A function that runs in another
        thread sees the context variables, too.
        """
        return None

    def trace_context(self, run: ObservedRun, /) -> str | None:
        """Return the W3C ``traceparent`` of a new run; None for that of its request.

        It is stored with the run. Called once, before :class:`RunStarted`, where the run begins: in
        the context of its request, or of the handler that invokes it. ``run.traceparent`` is what
        the client has sent, or the trace context of the run that invokes it.
        """
        return None

    def trace_headers(self) -> Mapping[str, str]:
        """Return the header fields that carry the current trace context to another server.

        Called in the attempt of a step, for each request of ``step.fetch``, ``step.ai.infer`` and a
        webhook. A field that the request has already is left out.
        """
        return {}
