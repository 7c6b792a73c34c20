"""The flows of an engine, in one place."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

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
            flow=function_steps.run_step,
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


def test_plain_steps_do_what_the_flow_does() -> None:
    """Who replaces the flow of a step must not have plain steps go on without it."""
    with pytest.raises(ValueError, match="another run_step"):
        replace(EMBEDDED_FLOWS, run_step=function_steps.other_step)
    replaced = replace(EMBEDDED_FLOWS, run_step=function_steps.other_step, plain_steps=None)

    assert function_steps.other_step is replaced.run_step
