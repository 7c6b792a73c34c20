"""What an engine is made of that keeps its runs on a server of somebody else's.

It subclasses ``RemoteEngine`` and ``RemoteHost``, describes a live run by a ``RemoteExecution``,
and brings the server's protocol: a client, a ``RunReporter``, and the flows of steps and handlers.
``durable-inngest`` is made of these parts. They may change with any version.
"""

from __future__ import annotations

from durable_core.codec.json import Codec, JSONCodec, canonical_json
from durable_core.codec.records import dump_error_response, load_step_error
from durable_core.duration import MAX_DURATION_MS
from durable_core.engine.remote.engine import RemoteEngine
from durable_core.engine.remote.execution import (
    FailedOp,
    PendingOp,
    Reentry,
    RemoteExecution,
    ReportedStep,
    answer_client,
    queue_op,
    report_ops,
)
from durable_core.engine.remote.forwarding import StreamForwarder
from durable_core.engine.remote.host import RemoteHost, ServerClient
from durable_core.engine.remote.op_queue import Ops, RunReporter, size_of
from durable_core.engine.remote.order import CompletionOrder
from durable_core.engine.remote.results import Ended, Results
from durable_core.engine.remote.steps import (
    ask_for_step,
    await_outcome,
    leave_to_server,
    park_for_ever,
    until_idle,
)
from durable_core.engine.remote.streams import StreamEmitter
from durable_core.engine.remote.watching import AskServer, wait_for_output, watch_output
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.effects import (
    Cancelled,
    Flow,
    Outcome,
    Raised,
    Returned,
    Unwound,
    call_handler,
    call_user,
    log_warning,
    send_response,
)
from durable_core.flow.env import AppConfig
from durable_core.flow.error_responses import (
    failure_response,
    handler_failure,
    response_for_exception,
    step_failure,
    store_unavailable_response,
)
from durable_core.flow.execution import begin as begin_step
from durable_core.flow.execution import new_run, run_label
from durable_core.flow.flows import EngineFlows
from durable_core.flow.handler import read_whole_body
from durable_core.flow.handoff import handoff_response, send_handoff
from durable_core.flow.options import ResolvedOptions, check_labels
from durable_core.flow.results import dump_result, load_result, result_remedy, typed_response
from durable_core.flow.server_calls import (
    FunctionCall,
    GatewayCall,
    ServerFunction,
    ServerGateway,
)
from durable_core.flow.step_options import NO_OPTIONS, StepOptions, show_step
from durable_core.flow.steps import dump_arguments
from durable_core.flow.wait import refuse_incomplete, refuse_token
from durable_core.flow.wait_url import PRIVATE_HEADERS, WaitRequest
from durable_core.http.problem import problem
from durable_core.http.response import with_headers
from durable_core.machine.advance import failure_of_handler
from durable_core.machine.matching import WaitRule
from durable_core.machine.retry import delay_ms
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.decision import (
    Fail,
    Failure,
    HandlerRaised,
    HandoffReason,
    ResponseTooLarge,
)
from durable_core.model.run import Phase, Run
from durable_core.model.signal import Signal, SignalWait
from durable_core.model.step import Op, OpKind
from durable_core.platform import is_ulid, logger, ulid_time
from durable_core.ports import Clock, Ids
from durable_core.runners.settings import RegisteredEndpoint

__all__ = [
    "MAX_DURATION_MS",
    "NO_OPTIONS",
    "PRIVATE_HEADERS",
    "AppConfig",
    "AskServer",
    "Call",
    "Cancelled",
    "Clock",
    "Codec",
    "CompletionOrder",
    "Ended",
    "EngineFlows",
    "Fail",
    "FailedOp",
    "Failure",
    "Flow",
    "FunctionCall",
    "GatewayCall",
    "HandlerRaised",
    "HandoffReason",
    "Ids",
    "JSONCodec",
    "Op",
    "OpKind",
    "Ops",
    "Outcome",
    "PendingOp",
    "Phase",
    "Raised",
    "Reentry",
    "RegisteredEndpoint",
    "RemoteEngine",
    "RemoteExecution",
    "RemoteHost",
    "ReportedStep",
    "ResolvedOptions",
    "ResponseTooLarge",
    "Results",
    "Returned",
    "Run",
    "RunReporter",
    "ServerClient",
    "ServerFunction",
    "ServerGateway",
    "Signal",
    "SignalWait",
    "StepAttempt",
    "StepOptions",
    "StreamEmitter",
    "StreamForwarder",
    "Unwound",
    "WaitRequest",
    "WaitRule",
    "answer_client",
    "ask_for_step",
    "await_outcome",
    "begin_step",
    "call_handler",
    "call_user",
    "canonical_json",
    "check_labels",
    "delay_ms",
    "dump_arguments",
    "dump_error_response",
    "dump_result",
    "failure_of_handler",
    "failure_response",
    "handler_failure",
    "handoff_response",
    "hash_step_id",
    "is_ulid",
    "leave_to_server",
    "load_result",
    "load_step_error",
    "log_warning",
    "logger",
    "new_run",
    "park_for_ever",
    "problem",
    "queue_op",
    "read_whole_body",
    "refuse_incomplete",
    "refuse_token",
    "report_ops",
    "response_for_exception",
    "result_remedy",
    "run_label",
    "send_handoff",
    "send_response",
    "show_step",
    "size_of",
    "step_failure",
    "store_unavailable_response",
    "typed_response",
    "ulid_time",
    "until_idle",
    "wait_for_output",
    "watch_output",
    "with_headers",
]
