"""The flows of an engine, in one place."""

from __future__ import annotations

from dataclasses import fields

from durable_core.flow import callbacks, function_steps, signals, steps
from durable_core.flow import handler as serve
from durable_core.flow.flows import EMBEDDED_FLOWS, EngineFlows, PlainSteps


def test_the_stored_flows_are_those_of_this_room() -> None:
    """Each is the function of its name in ``steps``, a module beside it or ``serve``."""
    named = {
        **vars(serve),
        **vars(callbacks),
        **vars(signals),
        **vars(function_steps),
        **vars(steps),
    }
    own = {"engine_name": "the embedded engine"}
    of_servers = {"invoke_function": None, "call_through_server": None}
    plain = {
        "plain_steps": PlainSteps(
            begin=function_steps.begin_step,
            other=function_steps.other_step,
            finish=function_steps.finish_step,
            result=function_steps.step_result,
            go_on=function_steps.go_on_step,
        )
    }
    others = own | of_servers | plain
    names = {field.name for field in fields(EngineFlows)} - others.keys()
    expected = {name: named[name] for name in names} | others

    assert expected == {name: getattr(EMBEDDED_FLOWS, name) for name in expected}
