"""Packages of npm for tests, and the npm client of the protocol, in Node."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.source_tree import ROOT

__all__ = ["INTEROP", "USE_CHAT", "Call", "NpmClient", "install"]

#: Folders with a ``package-lock.json``: the npm client of the protocol, and ``useChat``.
INTEROP = ROOT / "tests" / "interop"
USE_CHAT = ROOT / "tests" / "use_chat"
_INSTALL_SECONDS = 110
_CALL_SECONDS = 60
#: As in ``package.json``.
_OLDEST_NODE = 20


def install(folder: Path = INTEROP) -> Path:
    """Install what the folder's lock pins, once for all processes; return the folder.

    The test is skipped, with the reason, where there is no Node; that npm fails is a failure.
    """
    _skip_without_node()
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".durable-stamp"
    with (folder / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            command = [
                "npm",
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS
            )
            assert 0 == done.returncode, f"npm ci failed:\n{done.stdout}{done.stderr}"
            stamp.write_text(wanted)
    return folder


def _skip_without_node() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed, so npm packages cannot be run")
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(told.removeprefix("v").partition(".")[0]) < _OLDEST_NODE:
        pytest.skip(f"the npm packages need Node {_OLDEST_NODE} or newer; this is {told.strip()}")


@dataclass(frozen=True)
class Call:
    """What the npm client told of one call: its callbacks in order, and its end."""

    events: list[tuple[str, Any]]
    response: dict[str, Any] | None
    error: str | None

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    @property
    def data(self) -> list[object]:
        return [value["data"] for kind, value in self.events if kind == "data"]

    @property
    def committed(self) -> list[object]:
        """The data that is left by the rule: commit keeps, rollback drops."""
        kept: list[object] = []
        pending: list[object] = []
        for kind, value in self.events:
            if kind == "data":
                pending.append(value["data"])
            elif kind == "commit":
                kept += pending
                pending = []
            elif kind == "rollback":
                pending = []
        return kept


class NpmClient:
    """Calls endpoints by the npm client."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def call(self, url: str, **options: Any) -> Call:
        """Call an endpoint, and return all that is told."""
        with self.calling(url, **options) as lines:
            return call_of(list(lines))

    @contextmanager
    def calling(
        self,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        form: str = "object",
        timeout: float = 30.0,
    ) -> Iterator[Iterator[str]]:
        """Call an endpoint; yield the lines that are told as they come."""
        argument = {"url": url, "headers": headers or {}, "form": form, "timeout": timeout * 1000}
        command = ["node", "call.mjs", json.dumps(argument)]
        with subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                yield iter(process.stdout)
                _, errors = process.communicate(timeout=_CALL_SECONDS)
                assert "" == errors
            finally:
                process.kill()


def call_of(lines: list[str]) -> Call:
    told = [tuple(json.loads(line)) for line in lines]
    (kind, end) = told[-1]
    assert kind in ("response", "error"), told
    return Call(
        events=told[:-1],
        response=end if kind == "response" else None,
        error=end if kind == "error" else None,
    )
