"""Our own adapters, engine and stores conform, with the gaps that they are known to have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: What needs a store that processes share, or that outlives them.
_ALONE = {"T18", "T19", "T22", "T23", "T24", "T27", "T31", "T37", "T40"}
GAPS: dict[str, set[str]] = {
    "durable_wsgi.conformance:subject": {"A15", "Q8", "Q10", "Q12", "H9", "S6", "M2", "M3"},
    "durable_asgi.conformance:subject": set(),
    "durable_asyncio.conformance:subject": {"M1", "M2", "M3"},
    "support.recipe:loop_subject": {"Q12", "M1", "M2", "M3"},
    "support.recipe:aiohttp_subject": {"A16", "B3"},
    "support.engine_subjects:embedded": set(),
    "support.engine_subjects:inngest": {"L12", "E4", "E6"},
    "support.store_subjects:memory": _ALONE,
    "support.store_recipe:log_subject": _ALONE,
    "support.store_subjects:sqlite": set(),
}


@pytest.mark.parametrize("spec", GAPS)
def test_subject_conforms(judge: Callable[..., Any], spec: str) -> None:
    """Every required case ran and passed; the gaps are those we know."""
    code, text, report = judge(spec, "--client", "durable_client.conformance:clients")

    assert 0 == code, text
    statuses = {each["id"]: each["status"] for each in report["requirements"]}
    assert dict.fromkeys(GAPS[spec], "gap") == {
        id_: status for id_, status in statuses.items() if status != "pass"
    }


def test_the_encrypted_store_conforms(judge: Callable[..., Any]) -> None:
    """It does, but for sizes, and for the rules of waits, which it does not give back."""
    known = Path(__file__).with_name("encrypted-gaps.txt")

    code, text, _ = judge("support.store_subjects:encrypted", "--known-gaps", str(known))

    assert 0 == code, text


@pytest.mark.parametrize("framework", ["django", "flask", "starlette"])
def test_handlers_of_frameworks_conform(judge: Callable[..., Any], framework: str) -> None:
    """They do, where they can: what the framework's router decides is not ours."""
    known = Path(__file__).with_name(f"{framework}-gaps.txt")
    arguments = ("--client", "durable_client.conformance:clients", "--known-gaps", str(known))

    code, text, _ = judge(f"durable_{framework}.conformance:subject", *arguments)

    assert 0 == code, text
