"""All distributions of the repository carry one version."""

from __future__ import annotations

from pathlib import Path

import pytest

import durable_core
from support.source_tree import ADAPTER_FOLDERS, ROOT, project_of


def test_package_and_distribution_agree() -> None:
    """``durable_core.__version__`` is the version in pyproject.toml."""
    assert project_of(ROOT)["version"] == durable_core.__version__


def test_core_has_no_dependency() -> None:
    """The core needs nothing but Python."""
    assert [] == project_of(ROOT)["dependencies"]


@pytest.mark.parametrize("folder", ADAPTER_FOLDERS, ids=lambda folder: folder.name)
def test_adapter_has_the_same_version_and_needs_it(folder: Path) -> None:
    """An adapter has the core's version, asks for that core, and runs on the same Pythons."""
    core, adapter = project_of(ROOT), project_of(folder)

    assert core["version"] == adapter["version"]
    assert f"durable-core ~= {core['version']}" in adapter["dependencies"]
    assert core["requires-python"] == adapter["requires-python"]
