"""What the engine has no form for is refused where it is asked for, and nothing is ignored.

Each set of options is compared with the one that users can give: a new option has to be put into
one of the two tables here, and into ``docs/reference/engines.md``.
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from durable_core import (
    Durable,
    Limits,
    RateLimit,
    Request,
    Response,
    Settings,
    endpoint_adapter,
)
from durable_core.api.runs import Runs
from durable_core.errors import ConfigurationError, EngineError
from durable_core.flow.flows import EngineFlows
from durable_core.flow.options import EndpointOptions
from durable_core.flow.step_options import StepKeywords
from durable_core.observers import Observer
from durable_inngest import InngestEngine

TABLE = Path(__file__).parents[3] / "docs" / "reference" / "engines.md"

#: Options of endpoints that are refused, with a value each.
REFUSED: dict[str, object] = {
    "store_headers": ("authorization",),
    "idempotency": "required",
    "idempotency_ttl": "1h",
    "key": lambda request: "key",
    "omit_request_body": True,
    "omit_response_body": True,
    "on_mismatch": "fail",
    "run_timeout": "1h",
    "max_sync_runtime": "1s",
    "concurrency": 1,
    "queue_limit": 1,
    "rate_limit": RateLimit(1, "1s"),
    "singleton": "reject",
    "on_complete": "https://example.com/done",
    "allow_cancel": True,
    "ui_messages": "live",
}
#: Options that do what they say; tests/interop has each.
WORKING = {
    *("async_redirect_url", "async_response", "authorize", "exception_to_response", "function_id"),
    *("labels", "methods", "name", "record", "record_arguments", "retries", "version"),
}


def durable(**arguments: Any) -> Durable[Any]:
    engine = InngestEngine(is_dev=True)
    return Durable(id="shop", engine=engine, endpoint_adapter=endpoint_adapter, **arguments)


def handler(request: Request) -> Response:
    return Response()


def test_every_option_of_an_endpoint_is_known_here() -> None:
    """None is neither refused nor tested."""
    assert set(EndpointOptions.__annotations__) == REFUSED.keys() | WORKING
    assert not REFUSED.keys() & WORKING


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_is_refused_when_the_endpoint_is_made(option: str) -> None:
    """The error names the engine and the option, and the table of the docs has it."""
    options: Any = {option: REFUSED[option]}
    if option == "queue_limit":
        options["concurrency"] = 1
    define: Any = durable().endpoint(**options)
    with pytest.raises(ConfigurationError, match=r"^the Inngest engine .* the embedded") as no:
        define(handler)
    assert f"{option}=" in str(no.value)
    assert f"{option}=" in TABLE.read_text("utf-8")


@pytest.mark.parametrize("package", ["durable_starlette", "durable_flask", "durable_django"])
def test_handlers_of_a_framework_are_refused(package: str) -> None:
    """The server calls an endpoint by its URL, and a framework would have to make the call."""
    adapter = pytest.importorskip(package).endpoint_adapter
    made = Durable(id="shop", engine=InngestEngine(is_dev=True), endpoint_adapter=adapter)
    with pytest.raises(ConfigurationError, match=r"^the Inngest engine calls endpoints by itself"):
        made.endpoint(handler)


@pytest.mark.parametrize("choice", ["park", "fail"])
def test_policies_for_changed_code_are_refused(choice: Any) -> None:
    """The server does not say which steps come later, so none of them could be kept to."""
    with pytest.raises(ConfigurationError, match=f"on_mismatch='{choice}' needs the embedded"):
        durable().endpoint(on_mismatch=choice, version="1")(handler)


def test_every_option_of_a_step_is_known_here() -> None:
    """Those that are refused are so by tests/interop/test_run_facts.py."""
    refused = {"undo", "at_most_once"}
    working = {"retries", "timeout", "backoff", "retry_if", "name"}
    assert set(StepKeywords.__annotations__) == refused | working


def test_every_kind_of_step_is_known_here() -> None:
    """The engine has a flow for each, and refuses in it what its server has not."""
    # Child runs, of which `step.invoke` names the engine; and each step takes its flow.
    without = {"invoke", "leave_children", "plain_steps"}
    flows = {each.name for each in fields(EngineFlows)}
    made = InngestEngine(is_dev=True)
    Durable(id="shop", engine=made)
    given = made.make_host().flows
    assert without == {name for name in flows if getattr(given, name) is None}


#: Limits and settings that hold in this process, or of what is sent to the server.
USED_LIMITS = {
    *("body", "head", "step_result", "run_state", "steps", "event", "events"),
    *("waiting_clients", "response_stored"),
}
USED_SETTINGS = {"serving_threads", "max_own_wait", "unwind_time"}


@pytest.mark.parametrize("name", [each.name for each in fields(Limits)])
def test_a_limit_holds_or_is_refused(name: str) -> None:
    """One of a store, or of its streams, is refused when the application is made."""
    limits = replace(Limits(), **{name: getattr(Limits(), name) + 1})
    if name in USED_LIMITS:
        durable(limits=limits)
        return
    with pytest.raises(ConfigurationError, match=rf"Limits\({name}=\) needs the embedded engine"):
        durable(limits=limits)


@pytest.mark.parametrize("name", [each.name for each in fields(Settings)])
def test_a_setting_holds_or_is_refused(name: str) -> None:
    """One of workers, leases or a store is refused when the engine is made."""
    default = getattr(Settings(), name)
    settings = Settings(**{name: True if default is False else default + 1})
    if name in USED_SETTINGS:
        InngestEngine(is_dev=True, settings=settings)
        return
    refused = pytest.raises(ConfigurationError, match=rf"Settings\({name}=\) needs the embedded")
    with refused:
        InngestEngine(is_dev=True, settings=settings)


def test_observers_are_refused() -> None:
    """The engine says that it notifies none, when the application is made."""

    class Watching(Observer):
        pass

    with pytest.raises(ConfigurationError, match=r"Durable\(observers=\) needs the embedded"):
        durable(observers=[Watching()])


def test_a_callback_is_refused() -> None:
    """There are no callbacks, so an answer to one opens nothing."""
    url = "http://localhost/?durable-run=r&durable-token=c1.x.y"
    answer = durable().endpoint(handler).handle(Request(method="POST", url=url))
    assert 403 == answer.status


# --- what an application can be asked -------------------------------------------------------------

#: What ``Durable`` has and does under this engine; tests/interop and others have each.
WORKING_HERE = {
    *("endpoint", "endpoint_proxy", "events_endpoint", "health_endpoint", "readiness_endpoint"),
    *("start", "drain", "stop", "stop_async", "lifespan", "application_lifespan", "health"),
    *("current_run", "is_replaying", "endpoints", "send", "send_async", "signal", "signal_async"),
    "runs",  # whose methods are refused
}
#: What needs a store of ours, with its arguments.
REFUSED_HERE: dict[str, tuple[Any, ...]] = {
    "run_due": (1,),
    "run_due_async": (1,),
    "next_due": (),
    "next_due_async": (),
    "processes": (),
    "recent_events": (),
    "oldest_due": (),
}


def test_every_method_of_an_application_is_known_here() -> None:
    """Also routes that need an observer, or the store of runs, which this engine has not.

    Whoever adds a method puts it into one of the tables here, and into that of the docs.
    """
    public = {name for name in vars(Durable) if not name.startswith("_")}
    others = {"dashboard", "metrics", "ui_messages_endpoint"}
    assert public == WORKING_HERE | REFUSED_HERE.keys() | others
    made = durable()
    with pytest.raises(ConfigurationError, match="observer"):
        made.metrics()
    with pytest.raises(ConfigurationError, match="the Inngest engine"):
        made.ui_messages_endpoint(public=True)
    with pytest.raises(ConfigurationError):
        made.dashboard()


def _called(function: Any, *args: Any) -> None:
    outcome = function(*args)
    if inspect.isawaitable(outcome):

        async def wait() -> None:
            await outcome

        asyncio.run(wait())


@pytest.mark.parametrize("name", REFUSED_HERE)
def test_what_needs_a_store_is_refused(name: str) -> None:
    """The error says which engine is needed."""
    made = durable()
    try:
        with pytest.raises(ConfigurationError, match="embedded engine"):
            _called(getattr(made, name), *REFUSED_HERE[name])
    finally:
        made.stop()


#: The arguments that methods of ``durable.runs`` need.
RUN_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "list": (),
    "wait": ("r",),
    "resume_from": ("r", "step"),
}


@pytest.mark.parametrize("name", [name for name in vars(Runs) if not name.startswith("_")])
def test_runs_are_not_looked_at(name: str) -> None:
    """Each method says that the server keeps the runs."""
    made = durable()
    arguments = RUN_ARGUMENTS.get(name.removesuffix("_async"), ("r",))
    try:
        with pytest.raises((EngineError, ConfigurationError), match="engine"):
            _called(getattr(made.runs, name), *arguments)
    finally:
        made.stop()
