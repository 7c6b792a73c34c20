"""The picture of ``docs/explanation/architecture.md``: which room imports which.

``python docs/_generate/rooms.py`` prints the page with its picture made anew from the imports.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
BEGIN = "<!-- The picture is made from the imports by `python3 dev.py docs`. Do not edit it. -->\n"
END = "<!-- end of the picture -->\n"


def imports() -> dict[str, set[str]]:
    """Return room -> the other rooms that its modules import. A distribution is one room."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for package in (ROOT / "durable_core", *ROOT.glob("adapters/*/durable_*")):
        for path in package.rglob("*.py"):
            room = _room(".".join(path.relative_to(package.parent).with_suffix("").parts))
            for name in _imported(ast.parse(path.read_text("utf-8"))):
                found[room].add(_room(name))
    for room, others in found.items():
        others.discard(room)
    return dict(found)


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and str(node.module).startswith("durable_")
            and [name.name for name in node.names] != ["__version__"]  # which is no code
        ):
            yield str(node.module)


def _room(name: str) -> str:
    """Return the room of a dotted name: ``flow``, ``durable_wsgi``; faces are ``durable_core``."""
    package, _, rest = f"{name}.".partition(".")
    room = rest.partition(".")[0]
    faces = ("", "__init__", "__main__", "sync")
    return package if package != "durable_core" or room in faces else room


def reduced(graph: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield the imports that do not follow from others: ``a -> c`` goes when ``a -> b -> c``."""
    for room in sorted(graph):
        others = graph[room]
        for other in sorted(others):
            if not any(other in _reached(graph, each) for each in others - {other}):
                yield room, other


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph.get(waiting.pop(), set()) - reached:
            reached.add(other)
            waiting.append(other)
    return reached


def mermaid(graph: Mapping[str, set[str]]) -> str:
    """Return the picture as a Mermaid diagram."""
    lines = [f"    {room} --> {other}" for room, other in reduced(graph)]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```", ""])


def main() -> None:
    """Print the page."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    sys.stdout.write(f"{before}{BEGIN}\n{mermaid(imports())}\n{END}{after}")


if __name__ == "__main__":
    main()
