"""What an engine is made of that keeps its runs on a server of somebody else's.

It subclasses ``RemoteEngine`` and ``RemoteHost``, describes a live run by a ``RemoteExecution``,
and brings the server's protocol: a client, a ``RunReporter``, and the flows of steps and handlers.
``durable-inngest`` is made of these parts. They may change with any version.
"""

from __future__ import annotations

from durable_core.codec.json import Codec, JSONCodec, canonical_json
from durable_core.codec.records import dump_error_response, load_step_error
from durable_core.duration import MAX_DURATION_MS
from durable_core.engine.remote.allowed_hosts import (
    ANY_HOST,
    LOOPBACK_HOSTS,
    check_host,
    is_loopback,
    refuse_host,
)
from durable_core.engine.remote.attempts import MAX_ATTEMPTS, Answered, Attempts
from durable_core.engine.remote.engine import RemoteEngine
from durable_core.engine.remote.execution import (
    CompletionOrder,
    Reentry,
    RemoteExecution,
    answer_client,
    report_ops,
    response_or_failure,
    too_large,
)
from durable_core.engine.remote.host import RemoteHost, ServerClient
from durable_core.engine.remote.ops import (
    Failed,
    FailedOp,
    Ops,
    PendingOp,
    ReportedStep,
    RunReporter,
    ServerOps,
    Value,
    size_of,
)
from durable_core.engine.remote.steps import (
    asks,
    call_through_server,
    invoke_function,
    perform,
    recall,
    run_step,
    sending_signals,
    sleep_until,
    wait_for_callback,
    wait_for_event,
    wait_for_signal,
)
from durable_core.engine.remote.streams import StreamEmitter, StreamForwarder
from durable_core.engine.remote.waiting import AskServer, Ended, Results
from durable_core.flow.attempt import Call
from durable_core.flow.effects import (
    Cancelled,
    Flow,
    Outcome,
    Unwound,
    call_handler,
    log_warning,
    send_response,
)
from durable_core.flow.env import AppConfig
from durable_core.flow.error_responses import failure_response, store_unavailable_response
from durable_core.flow.execution import new_run, run_label
from durable_core.flow.flows import EngineFlows
from durable_core.flow.handoff import handoff_response, send_handoff
from durable_core.flow.options import ResolvedOptions, check_labels
from durable_core.flow.server_calls import FunctionCall, GatewayCall, ServerFunction, ServerGateway
from durable_core.flow.step_options import NO_OPTIONS, StepOptions
from durable_core.flow.wait import refuse_incomplete, refuse_token
from durable_core.flow.wait_url import PRIVATE_HEADERS, WaitRequest
from durable_core.http.problem import problem
from durable_core.http.response import with_headers
from durable_core.machine.matching import WaitRule
from durable_core.machine.retry import delay_ms
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.decision import Fail, Failure, HandoffReason
from durable_core.model.event import Signal, SignalWait
from durable_core.model.run import Phase, Run
from durable_core.model.step import Op, OpKind
from durable_core.platform import is_ulid, logger, ulid_time
from durable_core.ports import Clock, Ids
from durable_core.runners.settings import RegisteredEndpoint

__all__ = [
    "ANY_HOST",
    "LOOPBACK_HOSTS",
    "MAX_ATTEMPTS",
    "MAX_DURATION_MS",
    "NO_OPTIONS",
    "PRIVATE_HEADERS",
    "Answered",
    "AppConfig",
    "AskServer",
    "Attempts",
    "Call",
    "Cancelled",
    "Clock",
    "Codec",
    "CompletionOrder",
    "Ended",
    "EngineFlows",
    "Fail",
    "Failed",
    "FailedOp",
    "Failure",
    "Flow",
    "FunctionCall",
    "GatewayCall",
    "HandoffReason",
    "Ids",
    "JSONCodec",
    "Op",
    "OpKind",
    "Ops",
    "Outcome",
    "PendingOp",
    "Phase",
    "Reentry",
    "RegisteredEndpoint",
    "RemoteEngine",
    "RemoteExecution",
    "RemoteHost",
    "ReportedStep",
    "ResolvedOptions",
    "Results",
    "Run",
    "RunReporter",
    "ServerClient",
    "ServerFunction",
    "ServerGateway",
    "ServerOps",
    "Signal",
    "SignalWait",
    "StepOptions",
    "StreamEmitter",
    "StreamForwarder",
    "Unwound",
    "Value",
    "WaitRequest",
    "WaitRule",
    "answer_client",
    "asks",
    "call_handler",
    "call_through_server",
    "canonical_json",
    "check_host",
    "check_labels",
    "delay_ms",
    "dump_error_response",
    "failure_response",
    "handoff_response",
    "hash_step_id",
    "invoke_function",
    "is_loopback",
    "is_ulid",
    "load_step_error",
    "log_warning",
    "logger",
    "new_run",
    "perform",
    "problem",
    "recall",
    "refuse_host",
    "refuse_incomplete",
    "refuse_token",
    "report_ops",
    "response_or_failure",
    "run_label",
    "run_step",
    "send_handoff",
    "send_response",
    "sending_signals",
    "size_of",
    "sleep_until",
    "store_unavailable_response",
    "too_large",
    "ulid_time",
    "wait_for_callback",
    "wait_for_event",
    "wait_for_signal",
    "with_headers",
]
