"""The page of capabilities shows what our adapters declare now."""

from __future__ import annotations

from typing import Any

import pytest

import dev
import durable_asgi.conformance
import durable_asyncio.conformance
import durable_wsgi.conformance
from durable_conformance.contract import Kind, capabilities_of
from durable_conformance.matrix import MEANINGS, render
from support.source_tree import ADAPTER_FOLDERS, ROOT, project_of

SUBJECTS = (
    durable_wsgi.conformance.subject,
    durable_asgi.conformance.subject,
    durable_asyncio.conformance.subject,
)
PAGE = (ROOT / dev.MATRIX).read_text("utf-8")


def report(name: str, capabilities: frozenset[str], statuses: str = "") -> dict[str, Any]:
    known = {"p": "pass", "g": "gap"}
    return {
        "suite": {"version": "1"},
        "subject": {"name": name},
        "capabilities": {each.value: each in capabilities for each in MEANINGS},
        "requirements": [{"group": "Some", "status": known[each]} for each in statuses],
    }


def test_the_page_is_fresh() -> None:
    """Its capabilities are those that the subjects declare; ``dev.py matrix`` writes it."""
    rendered = render([report(each.name, each.capabilities) for each in SUBJECTS])
    table = rendered.partition("## Capabilities")[2].partition("\n\n## ")[0]

    assert table in PAGE


def test_every_adapter_is_on_it() -> None:
    """Each adapter of the repository has its column, and each capability of servers its row."""
    names = {project_of(folder)["name"] for folder in ADAPTER_FOLDERS}
    names -= {
        "durable-inngest",
        "durable-client",
        "durable-dashboard",
        "durable-otel",
        "durable-prometheus",
        "durable-pydantic-ai",
    }  # which serve no endpoints
    names -= {
        "durable-django",
        "durable-flask",
        "durable-starlette",
    }  # whose routers have gaps of their own
    modules = {subject.partition(".")[0].replace("_", "-") for subject in dev.SUBJECTS}

    assert names == {subject.name for subject in SUBJECTS} == modules
    assert list(MEANINGS) == list(capabilities_of(Kind.SERVER))


def test_numbers_of_requirements() -> None:
    """What passed is counted by group."""
    assert "| Some | 2 of 3 | 3 of 3 |" in render(
        [report("a", frozenset(), "ppg"), report("b", frozenset(), "ppp")]
    )


def test_versions_do_not_mix() -> None:
    """Reports of different versions of the suite make no page."""
    other = {**report("b", frozenset()), "suite": {"version": "2"}}
    with pytest.raises(ValueError, match="one version"):
        render([report("a", frozenset()), other])
