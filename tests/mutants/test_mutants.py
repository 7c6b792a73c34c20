"""The suite catches subjects that are broken on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from durable_conformance.requirements import Requirement, load_requirements
from support.mutants import (
    cores,
    engines,
    requests,
    responses,
    runs,
    store_races,
    stores,
    streams,
)
from support.source_tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: The requirements that each mutant must fail.
ALL: dict[str, tuple[str, ...]] = {
    f"{module.__name__}:{name}": ids
    for module in (requests, responses, runs, streams, cores, stores, store_races, engines)
    for name, (_, ids) in module.MUTANTS.items()
}

#: Requirements that no mutant can break without a core that is broken, too.
OF_THE_CORE = {"L9", "L10", "L12", "L13"}
GROUPS = tuple(dict.fromkeys(each.group for each in load_requirements()))
SOUND = (
    "support.mutants.base:sound",
    "support.mutants.base:sound_mounts",
    "support.mutants.base:sound_platform",
    "support.mutants.stores:sound",
)


@cache
def requirement(id_: str) -> Requirement:
    return next(each for each in load_requirements() if each.id == id_)


def judged(spec: str, folder: Path) -> tuple[int, str, dict[str, str]]:
    """Judge a subject, a mutant by the requirements it is for only.

    Returns:
        The exit code, what was printed, and the status of each requirement.
    """
    names = {
        case.partition("::")[2] for id_ in ALL.get(spec, ()) for case in requirement(id_).cases
    }
    report = folder / f"{spec.replace(':', '.')}.json"
    chosen = ("-k", " or ".join(sorted(names))) if names else ()
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    patience = "2" if names else "30"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "durable_conformance", spec, *chosen, "--json", str(report)),
            *("--client", "durable_client.conformance:clients"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": path,
            "DURABLE_CONFORMANCE_PATIENCE": patience,
        },
        cwd=folder,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(report.read_text("utf-8")) if report.exists() else {}
    statuses = {each["id"]: each["status"] for each in found.get("requirements", ())}
    return done.returncode, done.stdout + done.stderr, statuses


@pytest.mark.parametrize("spec", ALL)
def test_every_mutant_is_caught(tmp_path: Path, spec: str) -> None:
    """Each fails the requirements that it was made to fail."""
    code, text, statuses = judged(spec, tmp_path)

    assert 1 == code, text
    assert dict.fromkeys(ALL[spec], "fail") == {id_: statuses[id_] for id_ in ALL[spec]}


def test_threads_that_are_left_are_named(tmp_path: Path) -> None:
    """The report says which, for they may be those of the server's framework."""
    _, text, _ = judged("support.mutants.runs:leaves_threads", tmp_path)

    assert "assert [] == ['forgotten']" in text


@pytest.mark.parametrize("spec", SOUND)
def test_what_they_are_made_of_conforms(tmp_path: Path, spec: str) -> None:
    """Nothing fails but for what was broken."""
    code, text, _ = judged(spec, tmp_path)

    assert 0 == code, text


@pytest.mark.parametrize("group", GROUPS)
def test_every_requirement_can_fail(group: str) -> None:
    """Each requirement of the group has a mutant that fails it."""
    failed = {id_ for ids in ALL.values() for id_ in ids}

    assert set() == {each.id for each in load_requirements() if each.group == group} - failed


def test_mutants_are_for_requirements_that_there_are() -> None:
    """Each fails something that is required."""
    known = {each.id for each in load_requirements()}

    assert set() == {id_ for ids in ALL.values() for id_ in ids} - known
    assert all(ALL.values())
