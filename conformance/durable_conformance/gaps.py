"""The file of known gaps: cases that a subject is known to fail.

Each line holds the id of a case, as the report prints it, and after it the reason. An id without
its ``[...]`` stands for all variants of the case. Empty lines and lines with ``#`` in front count
for nothing. A case named here must fail: once it passes, the line has to go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["KnownGapsError", "base_of", "read_gaps", "unknown_gaps"]


class KnownGapsError(ValueError):
    """The file of known gaps cannot be used; the message says why."""


def read_gaps(path: Path) -> dict[str, str]:
    """Return the reasons by case id.

    Raises:
        KnownGapsError: the file cannot be read, or a line has no reason or a known id.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KnownGapsError(f"the known gaps cannot be read: {error}") from error
    gaps: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        id_, _, reason = line.strip().partition(" ")
        if not reason.strip():
            raise KnownGapsError(f"{path}:{number}: a line is a case id, a space and a reason")
        if id_ in gaps:
            raise KnownGapsError(f"{path}:{number}: {id_} is named twice")
        gaps[id_] = reason.strip()
    return gaps


def unknown_gaps(gaps: Mapping[str, str], cases: Iterable[str]) -> list[str]:
    """Return the ids among the gaps that no case has."""
    known = {name for case in cases for name in (case, base_of(case))}
    return sorted(set(gaps) - known)


def base_of(case: str) -> str:
    """Return a case's id without its variant: ``"test_x::test_y[sync]"`` is of ``...test_y``."""
    return case.partition("[")[0]
