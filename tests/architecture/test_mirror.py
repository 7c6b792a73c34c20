"""``tests/unit`` mirrors the packages of ``durable_core``, not its files."""

from __future__ import annotations

from pathlib import Path

from support.source_tree import CORE, ROOT


def folders_with(pattern: str, root: Path) -> set[str]:
    """Return the folders below ``root`` that hold such a file, there or further below."""
    found = {folder for file in root.rglob(pattern) for folder in file.relative_to(root).parents}
    return {folder.as_posix() for folder in found}


def test_every_package_has_its_folder_of_tests() -> None:
    """Each package has a folder of tests of the same name, and no folder is without a package."""
    assert folders_with("__init__.py", CORE) == folders_with("test_*.py", ROOT / "tests" / "unit")


def test_the_rule_sees_every_folder(tmp_path: Path) -> None:
    """A folder counts when the file is in it or in a folder of its own, and only then."""
    for path in ("a/b/test_x.py", "c/support.py", "test_y.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()

    assert {".", "a", "a/b"} == folders_with("test_*.py", tmp_path)
