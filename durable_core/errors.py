"""Every error of the library, as one tree.

What a user may raise or catch::

    DurableError
    ├── ConfigurationError            the application is set up wrongly
    │   ├── EndpointAdapterRequiredError
    │   └── DuplicateEndpointError
    ├── NonRetriableError             raised by user code: do not try again
    │   ├── DuplicateStepIdError      one step id used from two tasks or threads
    │   ├── HeaderNotStoredError      a header that replay cannot see
    │   ├── LimitExceededError        a step result, run or event is over its limit
    │   ├── MatchError                `match` names something the request does not have
    │   ├── StepUsageError            a step where none may be
    │   └── WaitInterruptedError      a timeout put around a sleep or a wait
    ├── RetryAfterError               raised by user code: try again, then
    ├── StepError                     a step failed for good
    │   ├── StepCancelled             user code cancelled it (also a TimeoutError)
    │   ├── StepResultError           it returned what cannot be stored (also a TypeError)
    │   └── StepResultTooLargeError   it returned too much (also a LimitExceededError)
    ├── HTTPError                     becomes that HTTP response at once
    │   └── BadRequest
    │       └── MissingParameter      (also a KeyError)
    ├── ClientError                   an exchange with a server did not succeed
    │   ├── ConnectFailedError        no connection came about (also a ConnectionError)
    │   ├── ConnectionLostError       it broke before the answer was whole (also a ConnectionError)
    │   ├── ProtocolError             the other side sent what the protocol does not allow
    │   ├── RequestAbortedError       the caller gave it up
    │   ├── RequestTimeoutError       it took longer than allowed (also a TimeoutError)
    │   ├── StreamEndedError          the stream of a run ended without its response
    │   └── TooManyRedirectsError
    ├── InvalidTokenError             a wait-URL token that does not open this run
    ├── RunNotFoundError
    ├── EngineError                   the engine cannot do what was asked
    └── StoreError                    the store cannot do it now, or at all
        ├── StoreBrokenError          a commit was cut short by what is no fault of the store
        ├── EngineUnavailableError    the engine's server does not take it
        ├── StoreBusyError            locked by someone else for too long
        ├── StoreConflictError        it met another commit; the same again may succeed
        ├── StoreFullError            no space left
        ├── StoreOutcomeUnknownError  it was done, or not: the answer of the store was lost
        ├── StoreReadOnlyError
        └── StoreVersionError         made by a newer version, or no store at all

What ``durable_core.testing`` raises in a test::

    HarnessError                      the test does not hold (an AssertionError)
    ├── NotDeterministicError         a replayed handler did not ask for the same steps
    ├── NotFinishedError              the result of a run that has none yet was asked for
    └── UnusedFaultError              a failure or crash that was planned did not happen

What only the library raises, to unwind a handler (``BaseException``, so that ``except Exception``
lets it pass)::

    ControlSignal
    ├── Suspended                     the handler is put away and will be replayed
    └── LeaseLost                     another process owns the run now
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

__all__ = [
    "BadRequest",
    "ClientError",
    "ConfigurationError",
    "ConnectFailedError",
    "ConnectionLostError",
    "ControlSignal",
    "DuplicateEndpointError",
    "DuplicateStepIdError",
    "DurableError",
    "EndpointAdapterRequiredError",
    "EngineError",
    "EngineUnavailableError",
    "HTTPError",
    "HarnessError",
    "HeaderNotStoredError",
    "InvalidTokenError",
    "LeaseLost",
    "LimitExceededError",
    "MatchError",
    "MissingParameter",
    "NonRetriableError",
    "NotDeterministicError",
    "NotFinishedError",
    "ProtocolError",
    "RequestAbortedError",
    "RequestTimeoutError",
    "RetryAfterError",
    "RunNotFoundError",
    "StepCancelled",
    "StepError",
    "StepResultError",
    "StepResultTooLargeError",
    "StepUsageError",
    "StoreBrokenError",
    "StoreBusyError",
    "StoreConflictError",
    "StoreError",
    "StoreFullError",
    "StoreOutcomeUnknownError",
    "StoreReadOnlyError",
    "StoreVersionError",
    "StreamEndedError",
    "Suspended",
    "TooManyRedirectsError",
    "UnusedFaultError",
    "WaitInterruptedError",
]


class DurableError(Exception):
    """Base of every error of this library. Never raised itself."""


class ConfigurationError(DurableError):
    """The application is set up in a way that cannot work; the message says what to change."""


class EndpointAdapterRequiredError(ConfigurationError):
    """``Durable`` was made without ``endpoint_adapter=`` and cannot wrap a handler."""


class DuplicateEndpointError(ConfigurationError):
    """Two different functions were registered under one endpoint key."""


class NonRetriableError(DurableError):
    """Raise it in a step or a handler when trying again cannot help."""


class DuplicateStepIdError(NonRetriableError):
    """One step id was used from two tasks or threads of a run; replay could swap their results."""


class HeaderNotStoredError(NonRetriableError):
    """A header that was on the request, but is not stored with the run, was read on replay."""


class LimitExceededError(NonRetriableError):
    """A step result, the whole run, or an event is over its configured limit."""


class MatchError(NonRetriableError):
    """``match=`` names a value that the run's own request lacks or that is null."""


class StepUsageError(NonRetriableError):
    """A step was called outside a run, inside a step, by the wrong face or without a function."""


class WaitInterruptedError(NonRetriableError):
    """A timeout was put around a sleep or a wait; give the step its own ``timeout`` instead."""


class RetryAfterError(DurableError):
    """Raise it in a step or a handler to be tried again at a chosen time.

    Args:
        message: what went wrong.
        retry_after: seconds from now (a finite number, 0 or more), or an aware ``datetime``.
            The delay is clamped to 0 seconds to 24 hours.

    Raises:
        ValueError: a negative or non-finite number, or a naive ``datetime``.
        TypeError: anything else.
    """

    def __init__(self, message: str, retry_after: float | datetime) -> None:
        super().__init__(message, retry_after)
        if isinstance(retry_after, datetime):
            if retry_after.tzinfo is None:
                raise ValueError("retry_after must be an aware datetime (it has no tzinfo)")
        elif isinstance(retry_after, bool) or not isinstance(retry_after, (int, float)):
            raise TypeError(
                "retry_after must be seconds or an aware datetime, "
                f"not {type(retry_after).__name__}"
            )
        elif not 0 <= retry_after < float("inf"):
            raise ValueError(f"retry_after must be 0 or more finite seconds, not {retry_after!r}")
        self.message = message
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


class StepError(DurableError):
    """A step failed on its last attempt. The handler may catch it and go on.

    Attributes:
        step_id: the id given to the step.
        name: the class name of the error the step raised, such as ``"ValueError"``.
        message: the text of that error.
        data: the JSON-ready ``data`` attribute of that error, or None.
    """

    def __init__(self, step_id: str, name: str, message: str, data: object = None) -> None:
        super().__init__(step_id, name, message, data)
        self.step_id = step_id
        self.name = name
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"step {self.step_id!r} failed: {self.name}: {self.message}"


class StepCancelled(StepError, TimeoutError):  # noqa: N818 - it is also a builtin TimeoutError
    """User code (a timeout around it) cancelled the step before its function ended."""


class StepResultError(StepError, TypeError):
    """A step's function returned what cannot be stored; names the step and the path in it.

    The function has had its effect, and is not called again: the step has failed for good.
    """

    def __str__(self) -> str:
        return self.message


class StepResultTooLargeError(StepError, LimitExceededError):
    """A step's function returned more than one result, or all of a run's, may hold.

    As for :class:`StepResultError`, the step has failed for good.
    """

    def __str__(self) -> str:
        return self.message


class HTTPError(DurableError):
    """Raise it in a handler to answer with a status at once. It is never retried.

    Args:
        status: 400 to 599.
        detail: a sentence for the client; shown in the RFC 9457 problem document.
        headers: extra response headers.
    """

    def __init__(
        self, status: int, detail: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"HTTPError status must be 400 to 599, not {status!r}")
        super().__init__(status, detail, headers)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        return f"{self.status} {self.detail}".rstrip()


class BadRequest(HTTPError):  # noqa: N818 - the name of the status
    """The client's request cannot be understood; answers 400."""

    def __init__(self, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(400, detail, headers)
        self.args = (detail, headers)  # what makes a copy, for pickle


class MissingParameter(BadRequest, KeyError):  # noqa: N818 - a kind of BadRequest
    """A query, form or path parameter that the handler asked for is not there."""


class ClientError(DurableError):
    """Base of what goes wrong between a client of this library and a server."""


class ConnectFailedError(ClientError, ConnectionError):
    """No connection to the server came about; nothing was sent."""


class ConnectionLostError(ClientError, ConnectionError):
    """The connection broke, or the server closed it, before its answer was whole."""


class ProtocolError(ClientError):
    """The other side sent what HTTP or the event stream does not allow, or too much of it."""


class RequestAbortedError(ClientError):
    """The caller gave the exchange up; its connections are closed."""


class RequestTimeoutError(ClientError, TimeoutError):
    """The exchange took longer than the caller allowed; its connections are closed."""


class StreamEndedError(ClientError):
    """The stream of a run ended without its response, and coming back to it did not help."""


class TooManyRedirectsError(ClientError):
    """The server sent the client from one URL to the next, more often than is allowed."""


class InvalidTokenError(DurableError):
    """The token is malformed, expired, or opens another run. The message never contains it."""


class RunNotFoundError(DurableError):
    """No run has this id in this application."""


class EngineError(DurableError):
    """The engine cannot do what was asked; the message names it and says what can be done."""


class StoreError(DurableError):
    """The store could not do what was asked. Nothing of it was done, unless the class says so."""


class StoreBrokenError(StoreError):
    """A commit was cut short by something that is no fault of the store: a bug, or an interrupt."""


class EngineUnavailableError(StoreError):
    """The server of the engine does not answer, or has refused; what was asked is not recorded."""


class StoreBusyError(StoreError):
    """The database was locked by somebody else for longer than the busy timeout."""


class StoreConflictError(StoreError):
    """The store undid a commit because it met another one. The same commit may succeed now."""


class StoreOutcomeUnknownError(StoreError):
    """The connection to the store was lost after a commit was sent: it was done, or it was not.

    Look at what is stored before you ask for the same again. Events that are sent again with the
    same ids are taken once.
    """


class StoreFullError(StoreError):
    """There is no space left for the database."""


class StoreReadOnlyError(StoreError):
    """The database cannot be written to."""


class StoreVersionError(StoreError):
    """The file is not a store of this library, or a newer version of it made the file."""


class HarnessError(AssertionError):
    """Base of what ``durable_core.testing`` finds wrong. Never raised itself."""


class NotDeterministicError(HarnessError):
    """A replayed handler did not ask for the steps that it had asked for before."""


class NotFinishedError(HarnessError):
    """The run has no result yet, and nothing is due that could bring it there."""


class UnusedFaultError(HarnessError):
    """A failure or crash was planned for a step, and the step never came to that point."""


class ControlSignal(BaseException):
    """Base of the signals that unwind a handler. Do not catch it; if you must, raise it again."""


class Suspended(ControlSignal):
    """The run is put away until it is due; its handler will be replayed from the start."""


class LeaseLost(ControlSignal):
    """This process no longer owns the run; nothing more of this execution can be committed."""
