"""Recorded traffic between the TypeScript SDK and a real server, as what one side said."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "Exchange", "load", "op_of", "said"]

FOLDER = Path(__file__).resolve().parents[1] / "data" / "inngest"
_RUN = re.compile(r"01[0-9A-Z]{24}")


@dataclass
class Exchange:
    """One request and its answer. ``leg`` is who was asked: ``app`` or ``dev``."""

    leg: str
    method: str
    target: str
    request_headers: dict[str, str]
    request_body: str
    status: int
    headers: dict[str, str]
    body: str


def load(name: str) -> list[Exchange]:
    """Return the exchanges of a recording, in the order of their requests."""
    text = (FOLDER / f"{name}.txt").read_text("utf-8")
    found = []
    for block in re.split(r"\n=+\n(?=#\d+ )", text)[1:]:
        title = re.match(r"#\d+ \[->(\w+)\] .*?\+([\d.]+)ms", block)
        assert title is not None
        _, _, rest = block.partition("\n" + "-" * 100 + "\n")
        asked, _, answered = rest.partition("\n" + "-" * 100 + "\n")
        exchange = _exchange(title[1], asked, answered)
        found.append((float(title[2]), exchange))
    return [exchange for _, exchange in sorted(found, key=lambda pair: pair[0])]


def _exchange(leg: str, asked: str, answered: str) -> Exchange:
    first, headers, body = _message(asked, ">")
    method, target, _ = first.split(" ", 2)
    status_line, answer_headers, answer = _message(answered, "<")
    parts = status_line.split(" ")
    status = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
    return Exchange(leg, method, target, headers, body, status, answer_headers, answer)


def _message(text: str, mark: str) -> tuple[str, dict[str, str], str]:
    lines = text.split("\n")
    head = [line[1:].strip() for line in lines if line.startswith(mark)]
    rest = "\n".join(line for line in lines if not line.startswith(mark))
    body = re.split(r"\n?  \[(?:request|response) body", rest)[0]
    fields = [line.partition(":") for line in head[1:] if line]
    headers = {name.lower(): value.strip() for name, _, value in fields}
    return re.sub(r"\s+\[head .*", "", head[0]) if head else "", headers, body.strip("\n")


def said(exchanges: list[Exchange]) -> list[tuple[str, Any]]:
    """Return what the app told the server: its checkpoints, events, and answers to calls."""
    told: list[tuple[str, Any]] = []
    for each in exchanges:
        target = _RUN.sub("RUN", each.target.partition("?")[0])
        if each.leg == "dev" and each.method == "POST" and "publish" not in target:
            if "x-inngest-sdk" in each.request_headers or target.startswith("/e/NO_"):
                told.append((f"POST {target}", json.loads(each.request_body)))
        elif each.leg == "app" and "x-run-id" in each.request_headers:
            document = json.loads(each.body) if each.body[:1] in ("{", "[") else {}
            told.append((f"answer {each.status}", document))
    return told


def op_of(op: dict[str, Any]) -> dict[str, Any]:
    """Return an op without what differs from run to run, and what the server does not read."""
    known = {
        name: op[name]
        for name in ("id", "op", "name", "displayName", "userland", "opts", "data")
        if op.get(name) is not None
    }
    if op.get("error"):
        known["error"] = {"message": op["error"].get("message")}
    if op["op"] == "StepFailed":
        known.pop("data", None)
    return known
