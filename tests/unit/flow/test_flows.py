"""The flows of an engine, in one place."""

from __future__ import annotations

from dataclasses import fields

from durable_core.flow import callbacks, signals, steps
from durable_core.flow import handler as serve
from durable_core.flow.flows import EMBEDDED_FLOWS, EngineFlows


def test_the_stored_flows_are_those_of_this_room() -> None:
    """Each flow is the function of its name in ``steps``, a room beside it or ``serve``."""
    named = {**vars(serve), **vars(callbacks), **vars(signals), **vars(steps)}
    names = {field.name for field in fields(EngineFlows)} - {"engine_name"}
    expected = {name: named[name] for name in names}

    assert expected == {name: getattr(EMBEDDED_FLOWS, name) for name in expected}
