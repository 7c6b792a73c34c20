"""All distributions of the repository carry one version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import durable_conformance
import durable_core
from support.source_tree import ADAPTER_FOLDERS, CONFORMANCE, ROOT, project_of


def test_package_and_distribution_agree() -> None:
    """``durable_core.__version__`` is the version in pyproject.toml."""
    assert project_of(ROOT)["version"] == durable_core.__version__


def test_core_has_no_dependency() -> None:
    """The core needs nothing but Python."""
    assert [] == project_of(ROOT)["dependencies"]


def test_the_suite_depends_on_no_adapter() -> None:
    """It needs the core, pytest and hypothesis, and its package says its version."""
    project = project_of(CONFORMANCE)
    names = [re.split(r"[ ~>=]", each, maxsplit=1)[0] for each in project["dependencies"]]

    assert ["durable-core", "pytest", "hypothesis"] == names
    assert project["version"] == durable_conformance.__version__


@pytest.mark.parametrize("folder", [*ADAPTER_FOLDERS, CONFORMANCE], ids=lambda folder: folder.name)
def test_adapter_has_the_same_version_and_needs_it(folder: Path) -> None:
    """Adapters and the suite have the core's version, ask for it, and run on the same Pythons."""
    core, adapter = project_of(ROOT), project_of(folder)

    assert core["version"] == adapter["version"]
    assert f"durable-core ~= {core['version']}" in adapter["dependencies"]
    assert core["requires-python"] == adapter["requires-python"]
