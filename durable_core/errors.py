"""Every error of the library, as one tree.

Errors that a user may raise or catch::

    DurableError
    ├── ConfigurationError            the application is set up wrongly
    │   ├── EndpointAdapterRequiredError
    │   └── DuplicateEndpointError
    ├── NonRetriableError             raised by user code: do not try again
    │   ├── BodyNotStoredError        a request body that replay cannot see
    │   ├── DuplicateStepIdError      one step id used from two tasks or threads
    │   ├── HeaderNotStoredError      a header that replay cannot see
    │   ├── LimitExceededError        a step result, run or event is over its limit
    │   ├── MatchError                `match` names something the request does not have
    │   ├── StepUsageError            a step where none may be
    │   │   ├── StepArgumentError     wrong arguments (also a ValueError) (also a TypeError)
    │   │   ├── StepKindError         the run has stored another kind of step under that id
    │   │   ├── StepOrderError        the code asks for other steps than the run has stored
    │   │   └── StepTypeError         stored data does not fit its type (also a TypeError)
    │   └── WaitInterruptedError      a timeout put around a sleep or a wait
    ├── RetryAfterError               raised by user code: retry at the given time
    ├── StepError                     a step failed on its last attempt
    │   ├── StepCancelled             user code cancelled it (also a TimeoutError)
    │   ├── StepInterrupted           its process died; it must not begin twice
    │   ├── SignalConflictError       another run waits for the signal already
    │   ├── StepResultError           its result cannot be stored (also a TypeError)
    │   └── StepResultTooLargeError   its result is too large (also a LimitExceededError)
    ├── HTTPError                     becomes that HTTP response at once
    │   └── BadRequest
    │       └── MissingParameter      (also a KeyError)
    ├── ClientError                   an exchange with a server did not succeed
    │   ├── ConnectFailedError        the connection failed (also a ConnectionError)
    │   ├── ConnectionLostError       it broke before the response ended (also a ConnectionError)
    │   ├── ProtocolError             the other side violated the protocol
    │   ├── RequestAbortedError       the caller aborted it
    │   ├── RequestTimeoutError       it took longer than allowed (also a TimeoutError)
    │   ├── ServerStatusError         step.fetch got 429 or 5xx
    │   │   └── ServerBusyError       and a Retry-After (also a RetryAfterError)
    │   ├── StreamEndedError          the stream of a run ended without its response
    │   └── TooManyRedirectsError
    ├── InvalidTokenError             a wait-URL token that does not open this run
    ├── RunNotFoundError
    ├── ChildRunError                 a run with a parent was to be retried
    ├── RunUndoneError                a run was undone, or is being undone
    ├── SingletonError                another run has the singleton key of a run
    ├── EngineError                   the engine cannot do what was asked
    └── StoreError                    the store cannot do it now, or at all
        ├── EncryptionKeyError        what is stored is encrypted with a key that is not here
        ├── StoreBrokenError          a bug or an interrupt stopped a commit
        ├── EngineUnavailableError    the engine's server does not answer or refuses
        ├── StoreBusyError            locked by another connection for too long
        ├── StoreConflictError        another commit conflicted; a retry may succeed
        ├── StoreFullError            no space left
        ├── StoreOutcomeUnknownError  the answer was lost: it may or may not be committed
        ├── StoreReadOnlyError
        └── StoreVersionError         made by a newer version, or no store at all

Errors that ``durable_core.testing`` raises in a test::

    HarnessError                      the test fails (an AssertionError)
    ├── NotDeterministicError         a replayed handler did not call the same steps
    ├── NotFinishedError              the test asked for a result, but the run has none yet
    └── UnusedFaultError              a planned failure or crash did not happen

Signals that only the library raises, to unwind a handler (``BaseException``, so that ``except
Exception`` does not catch them)::

    ControlSignal
    ├── Suspended                     the run is suspended and its handler will be replayed
    └── LeaseLost                     another process owns the run now
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from durable_core.duration import Duration, is_int, is_number, parse_duration

__all__ = [
    "BadRequest",
    "BodyNotStoredError",
    "ChildRunError",
    "ClientError",
    "ConfigurationError",
    "ConnectFailedError",
    "ConnectionLostError",
    "ControlSignal",
    "DuplicateEndpointError",
    "DuplicateStepIdError",
    "DurableError",
    "EncryptionKeyError",
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
    "RunUndoneError",
    "ServerBusyError",
    "ServerStatusError",
    "SignalConflictError",
    "SingletonError",
    "StepArgumentError",
    "StepCancelled",
    "StepError",
    "StepInterrupted",
    "StepKindError",
    "StepOrderError",
    "StepResultError",
    "StepResultTooLargeError",
    "StepTypeError",
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
    """The configuration cannot work; the message explains what to change."""


class EndpointAdapterRequiredError(ConfigurationError):
    """``Durable`` was made without ``endpoint_adapter=`` and cannot wrap a handler."""


class DuplicateEndpointError(ConfigurationError):
    """Two different functions were registered under one endpoint key."""


class NonRetriableError(DurableError):
    """Raise it in a step or a handler if a retry cannot help.

    Args:
        message: what went wrong, for the log and for operators.
        public: text for the client: the ``detail`` of the problem document. Clients see no
            other text of an error, unless ``Durable(debug=True)``.
    """

    def __init__(self, *args: object, public: str | None = None) -> None:
        super().__init__(*args)
        self.public = public


class DuplicateStepIdError(NonRetriableError):
    """One step id was used from two tasks or threads of a run; replay could swap their results."""


class BodyNotStoredError(NonRetriableError):
    """The body of a request was read where a replay would need it, and it is not stored.

    The endpoint has ``omit_request_body=True``. Read it in the function of a step.
    """


class HeaderNotStoredError(NonRetriableError):
    """A header that was on the request, but is not stored with the run, was read on replay."""


class LimitExceededError(NonRetriableError):
    """A step result, the whole run, or an event is over its configured limit."""


class MatchError(NonRetriableError):
    """``match=`` names a value that the run's own request lacks or that is null."""


class StepUsageError(NonRetriableError):
    """A step was called wrongly: outside a run, inside a step, in the wrong kind of handler.

    Also raised if the handler ended before a step that it called.
    """


class StepArgumentError(StepUsageError, ValueError, TypeError):
    """A step was given an id, a duration, an event or a rule that it cannot take."""


class StepKindError(StepUsageError):
    """The code asks for another kind of step than the one that the run has stored under that id."""


class StepOrderError(StepUsageError):
    """The code has changed: it asks for other steps than the run has stored, or in another order.

    Raised where the endpoint has ``on_mismatch="fail"``.
    """


class StepTypeError(StepUsageError, TypeError):
    """A stored result, or an event, does not fit the type that the code names for it."""


class WaitInterruptedError(NonRetriableError):
    """A time-out around a waiting step has ended, or cannot be kept until it would end.

    Give the step its own ``timeout`` instead.
    """


class RetryAfterError(DurableError):
    """Raise it in a step or a handler to set the time of the retry.

    Args:
        message: what went wrong.
        retry_after: a duration from now (such as ``"30s"``, a number of seconds, or a
            ``timedelta``), or an aware ``datetime``. The delay is clamped to 0 seconds to 24 hours.

    Attributes:
        retry_after: the number of seconds, or the ``datetime``.

    Raises:
        ValueError: a negative or non-finite number, a text that is no duration, or a naive
            ``datetime``.
        TypeError: anything else.
    """

    def __init__(self, message: str, retry_after: Duration | datetime) -> None:
        super().__init__(message, retry_after)
        if isinstance(retry_after, (str, timedelta)):
            retry_after = parse_duration(retry_after, what="retry_after") / 1000
        if isinstance(retry_after, datetime):
            if retry_after.tzinfo is None:
                raise ValueError("retry_after must be an aware datetime (it has no tzinfo)")
        elif not is_number(retry_after):
            raise TypeError(
                "retry_after must be a duration or an aware datetime, "
                f"not {type(retry_after).__name__}"
            )
        elif not 0 <= retry_after < float("inf"):
            raise ValueError(f"retry_after must be 0 or more finite seconds, not {retry_after!r}")
        self.message = message
        self.retry_after: float | datetime = retry_after

    def __str__(self) -> str:
        return self.message


class StepError(DurableError):
    """A step failed on its last attempt. The handler may catch it and continue.

    Attributes:
        step_id: the id given to the step.
        name: the class name of the error the step raised, such as ``"ValueError"``.
        message: the text of that error.
        data: the JSON-ready ``data`` attribute of that error, or None.
        public: what clients are told of it (see :class:`NonRetriableError`), or None.
    """

    public: str | None = None
    #: The ``Response`` that ``exception_to_response`` has made of the step's error, or None.
    _response: object = None

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


class StepInterrupted(StepError):  # noqa: N818 - as StepCancelled
    """The process died in a step with ``at_most_once=True``. Whether it had its effect is unknown.

    Look at what the step was to change, and decide what to do.
    """


class SignalConflictError(StepError):
    """Another run waits for a signal of this name already.

    Raised by ``step.wait_for_signal`` with ``on_conflict="fail"``. It is stored: a replay raises it
    again.
    """

    def __str__(self) -> str:
        return self.message


class StepResultError(StepError, TypeError):
    """A step's function returned a value that cannot be stored; names the step and the path.

    The function has had its side effect and is not called again: the step has failed.
    """

    def __str__(self) -> str:
        return self.message


class StepResultTooLargeError(StepError, LimitExceededError):
    """A step's result is over the limit for one result, or for all results of a run.

    As for :class:`StepResultError`, the step has failed and is not retried.
    """

    def __str__(self) -> str:
        return self.message


class HTTPError(DurableError):
    """Raise it in a handler to respond with a status at once. It is never retried.

    Args:
        status: 400 to 599.
        detail: a sentence for the client; shown in the RFC 9457 problem document.
        headers: extra response headers.
    """

    def __init__(
        self, status: int, detail: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        if not is_int(status) or not 400 <= status <= 599:
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
    """The request lacks a query, form or path parameter that the handler reads."""


class ClientError(DurableError):
    """Base of errors between a client of this library and a server."""


class ConnectFailedError(ClientError, ConnectionError):
    """The connection to the server failed; nothing was sent."""


class ConnectionLostError(ClientError, ConnectionError):
    """The connection broke, or the server closed it, before the response was complete."""


class ProtocolError(ClientError):
    """The other side violated HTTP or the event stream format, or sent too much data."""


class RequestAbortedError(ClientError):
    """The caller aborted the exchange; its connections are closed."""


class RequestTimeoutError(ClientError, TimeoutError):
    """The exchange took longer than the caller allowed; its connections are closed."""


class ServerStatusError(ClientError):
    """A server has answered ``step.fetch`` or ``step.ai.infer`` with 429 or 5xx.

    Attributes:
        status: the HTTP status.
        data: the same, for the ``StepError`` of a step that has failed for good.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.data = {"status": status}

    def __str__(self) -> str:
        return self.message


class ServerBusyError(ServerStatusError, RetryAfterError):
    """The same, and the server has said when to ask again."""

    def __init__(self, message: str, status: int, retry_after: float) -> None:
        RetryAfterError.__init__(self, message, retry_after)
        self.status = status
        self.data = {"status": status}


class StreamEndedError(ClientError):
    """The stream of a run ended without its response, and all reconnects failed."""


class TooManyRedirectsError(ClientError):
    """The server redirected the client more often than is allowed."""


class InvalidTokenError(DurableError):
    """The token is malformed, expired, or for another run. The message never contains it."""


class RunNotFoundError(DurableError):
    """No run has this id in this application."""


class ChildRunError(DurableError):
    """A failed child run cannot go on: its parent has been told that it has failed.

    The message says what to do instead.
    """


class RunUndoneError(DurableError):
    """Steps of the run were undone, or are being undone, which the call would ignore.

    The message says what to do instead.
    """


class SingletonError(DurableError):
    """Another run with the same singleton key has not ended; the message names it."""


class EngineError(DurableError):
    """The engine does not support the operation; the message names it and a remedy."""


class StoreError(DurableError):
    """The store could not carry out an operation. Nothing was done, unless the class differs."""


class EncryptionKeyError(StoreError):
    """What is stored cannot be read here: it needs a key that this process does not have.

    Or it is not encrypted, although the process encrypts. A run that cannot be read stays as it is,
    for a process that can.
    """


class StoreBrokenError(StoreError):
    """A bug or an interrupt, not a fault of the store, stopped a commit."""


class EngineUnavailableError(StoreError):
    """The server of the engine does not answer, or has refused; the request is not recorded."""


class StoreBusyError(StoreError):
    """Another connection locked the database for longer than the busy time-out."""


class StoreConflictError(StoreError):
    """The store rolled a commit back because of a concurrent one. A retry may succeed."""


class StoreOutcomeUnknownError(StoreError):
    """The connection to the store was lost after a commit was sent. It may or may not be committed.

    Read the stored state before you repeat the operation. Events that are sent again with the same
    ids are stored once.
    """


class StoreFullError(StoreError):
    """There is no space left for the database."""


class StoreReadOnlyError(StoreError):
    """The database cannot be written to."""


class StoreVersionError(StoreError):
    """The file is not a store of this library, or a newer version of it made the file."""


class HarnessError(AssertionError):
    """Base of the errors of ``durable_core.testing``. Never raised itself."""


class NotDeterministicError(HarnessError):
    """A replayed handler did not call the steps that it had called before."""


class NotFinishedError(HarnessError):
    """The run has no result yet, and nothing is due that could continue it."""


class UnusedFaultError(HarnessError):
    """A failure or crash was planned for a step, but the step never reached that point."""


class ControlSignal(BaseException):
    """Base of the signals that unwind a handler. Do not catch it; if you must, raise it again."""


class Suspended(ControlSignal):
    """The run is suspended until it is due; its handler will be replayed from the start."""


class LeaseLost(ControlSignal):
    """This process no longer owns the run; nothing more of this execution can be committed."""
