"""The flows of an engine, in one place."""

from __future__ import annotations

from dataclasses import fields

from durable_core.flow import callbacks, signals, steps
from durable_core.flow import handler as serve
from durable_core.flow.flows import EMBEDDED_FLOWS, EngineFlows


def test_the_stored_flows_are_those_of_this_room() -> None:
    """Each is the function of its name in ``steps``, a room beside it or ``serve``."""
    named = {**vars(serve), **vars(callbacks), **vars(signals), **vars(steps)}
    own = {"engine_name": "the embedded engine"}
    of_servers = {"invoke_function": None, "call_through_server": None}
    names = {field.name for field in fields(EngineFlows)} - own.keys() - of_servers.keys()
    expected = {name: named[name] for name in names} | own | of_servers

    assert expected == {name: getattr(EMBEDDED_FLOWS, name) for name in expected}
