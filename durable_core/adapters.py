"""What adapters are made of: all that the author of one needs, and no more.

An adapter gives an :class:`Exchange` or an :class:`AsyncExchange` for each request;
:func:`converse`, :func:`converse_async` or :func:`pull` does the rest. The how-to page "Write an
adapter" shows each.
"""

from __future__ import annotations

from durable_core.adapter.app import (
    AdapterApp,
    check_callable,
    refuse_other_adapter,
    resolve_handler,
)
from durable_core.adapter.bodies import ThreadIterator
from durable_core.adapter.conversation import (
    App,
    PulledBody,
    PulledExchange,
    converse,
    converse_async,
    pull,
    pull_response,
    refuse,
    refuse_async,
    send_async,
)
from durable_core.adapter.exchange import (
    LISTEN_AFTER,
    AsyncExchange,
    ClientDisconnectedError,
    Exchange,
    Fields,
)
from durable_core.adapter.messages import (
    authority_of,
    is_prepared,
    loggable_path,
    parse_content_length,
    parse_request,
    split_target,
)
from durable_core.adapter.native import (
    Host,
    Hosts,
    NotReachedError,
    check_durable,
    check_nested_call,
    copy_identity,
)
from durable_core.adapter.server import (
    BACKLOG,
    RunningServer,
    Server,
    bind,
    check_max_connections,
    default_max_connections,
    is_out_of_descriptors,
    is_reset_on_close,
    lingering_close,
    reset_on_close,
    stop_on_signals,
    url_of,
)
from durable_core.api.adapter import (
    AppAdapter,
    EndpointAdapter,
    EngineLifecycle,
    HTTPHandler,
    NativeAdapter,
    NativeApp,
    NativeEndpoint,
    NativeEngine,
)
from durable_core.api.effects import CallFunction, CallHook, FlowHandler, RequestEffect, RequestFlow
from durable_core.api.endpoint import check_verdict
from durable_core.api.functions import is_async
from durable_core.api.run import current_execution, current_run_logger, suspend_at_once
from durable_core.engine.deferred import DeferredRun
from durable_core.engine.deferred_thread import DeferredPoolRun, DeferredThreadRun
from durable_core.engine.runs import ClientAnswer
from durable_core.flow.error_responses import response_of_step
from durable_core.flow.options import EndpointOptions, merge_options
from durable_core.flow.step_options import StepKeywords
from durable_core.flow.wait_url import RUN_PARAM, TOKEN_PARAM
from durable_core.http.problem import problem, problem_from_http_error
from durable_core.http.request import client_of
from durable_core.routing import Application, Routes
from durable_core.runners.begun_call import BegunCall
from durable_core.runners.event_loops import LoopThread
from durable_core.runners.run_tasks import context_outside_run, coordinates_steps, enter_run
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.stop_notice import SignalEvent, StopNotice

__all__ = [
    "BACKLOG",
    "LISTEN_AFTER",
    "RUN_PARAM",
    "TOKEN_PARAM",
    "AdapterApp",
    "App",
    "AppAdapter",
    "Application",
    "AsyncExchange",
    "BegunCall",
    "CallFunction",
    "CallHook",
    "ClientAnswer",
    "ClientDisconnectedError",
    "DaemonThreadPool",
    "DeferredPoolRun",
    "DeferredRun",
    "DeferredThreadRun",
    "EndpointAdapter",
    "EndpointOptions",
    "EngineLifecycle",
    "Exchange",
    "Fields",
    "FlowHandler",
    "HTTPHandler",
    "Host",
    "Hosts",
    "LoopThread",
    "NativeAdapter",
    "NativeApp",
    "NativeEndpoint",
    "NativeEngine",
    "NotReachedError",
    "PulledBody",
    "PulledExchange",
    "RequestEffect",
    "RequestFlow",
    "Routes",
    "RunningServer",
    "Server",
    "SignalEvent",
    "StepKeywords",
    "StopNotice",
    "ThreadIterator",
    "authority_of",
    "bind",
    "check_callable",
    "check_durable",
    "check_max_connections",
    "check_nested_call",
    "check_verdict",
    "client_of",
    "context_outside_run",
    "converse",
    "converse_async",
    "coordinates_steps",
    "copy_identity",
    "current_execution",
    "current_run_logger",
    "default_max_connections",
    "enter_run",
    "is_async",
    "is_out_of_descriptors",
    "is_prepared",
    "is_reset_on_close",
    "lingering_close",
    "loggable_path",
    "merge_options",
    "parse_content_length",
    "parse_request",
    "problem",
    "problem_from_http_error",
    "pull",
    "pull_response",
    "refuse",
    "refuse_async",
    "refuse_other_adapter",
    "reset_on_close",
    "resolve_handler",
    "response_of_step",
    "send_async",
    "split_target",
    "stop_on_signals",
    "suspend_at_once",
    "url_of",
]
