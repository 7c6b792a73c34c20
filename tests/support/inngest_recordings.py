"""Recorded traffic between the TypeScript SDK and a real server, as what one side said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "FOLDER",
    "Exchange",
    "asked",
    "events_of",
    "fields_of",
    "load",
    "names",
    "op_of",
    "ops_of",
    "posted",
    "said",
]

FOLDER = Path(__file__).resolve().parents[1] / "data" / "inngest"
_RUN = re.compile(r"01[0-9A-Z]{24}")
_EVENT = re.compile(r"^event: inngest\.(\w+)\ndata: (.*)$", re.MULTILINE)
_STREAM_URL = re.compile(r'"url":"http://[^/]+/([^?]+)\?token=[^"]+"')
#: The parts of an op that a server reads.
_READ = ("id", "op", "name", "displayName", "userland", "opts", "data")
#: Headers of the protocol; others are those of the HTTP library.
_OWN = ("content-type", "authorization", "retry-after")


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

    @property
    def path(self) -> str:
        return _RUN.sub("RUN", self.target.partition("?")[0])

    @property
    def kind(self) -> str:
        """What the app asks the server with this, or that it answers a call; "" for others."""
        if self.leg == "app":
            return f"answer {self.status}" if "x-run-id" in self.request_headers else ""
        is_ours = "x-inngest-sdk" in self.request_headers
        return f"{self.method} {self.path}" if is_ours else ""


def names() -> list[str]:
    """Return the names of all recordings."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def load(name: str) -> list[Exchange]:
    """Return the exchanges of a recording about its first run, in the order of their requests."""
    text = (FOLDER / f"{name}.txt").read_text("utf-8")
    found = []
    for block in re.split(r"\n=+\n(?=#\d+ )", text)[1:]:
        title = re.match(r"#\d+ \[->(\w+)\] .*?\+([\d.]+)ms", block)
        assert title is not None
        _, _, rest = block.partition("\n" + "-" * 100 + "\n")
        asked, _, answered = rest.partition("\n" + "-" * 100 + "\n")
        exchange = _exchange(title[1], asked, answered)
        found.append((float(title[2]), exchange))
    exchanges = [exchange for _, exchange in sorted(found, key=lambda pair: pair[0])]
    begun = next((each for each in exchanges if each.path == "/v1/checkpoint"), None)
    run_id = json.loads(begun.request_body)["run_id"] if begun is not None else ""
    return [each for each in exchanges if run_id in (_run_of(each) or run_id)]


def _run_of(each: Exchange) -> str:
    """Return the run that an exchange is about; "" if it does not say."""
    if each.path == "/v1/checkpoint":
        return str(json.loads(each.request_body)["run_id"])
    found = _RUN.search(each.target)
    return each.request_headers.get("x-run-id", found[0] if found is not None else "")


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


# -- what was said -----------------------------------------------------------------------------


def said(exchanges: Iterable[Exchange]) -> list[tuple[str, Any]]:
    """Return what the app told the server: its checkpoints, events, and answers to calls."""
    told: list[tuple[str, Any]] = []
    for each in exchanges:
        if each.kind.startswith("answer"):
            told.append((each.kind, json.loads(each.body) if each.body[:1] in ("{", "[") else {}))
        elif each.kind.startswith("POST") and "publish" not in each.target:
            told.append((each.kind, json.loads(each.request_body)))
    return told


def asked(exchanges: Iterable[Exchange]) -> list[str]:
    """Return what the app asked the server for, sorted: some of it is asked for at a time."""
    return sorted(each.kind for each in exchanges if each.leg == "dev" and each.kind)


def posted(exchanges: Iterable[Exchange]) -> list[list[tuple[str, str]]]:
    """Return the events of each part of a stream that the app posted to the server.

    An end that is told again counts once.
    """
    posts: list[list[tuple[str, str]]] = []
    for each in exchanges:
        if each.kind.endswith("/publish/tee"):
            events = events_of(each.request_body)
            if not posts or events != posts[-1]:
                posts.append(events)
    return posts


def events_of(stream: str) -> list[tuple[str, str]]:
    """Return the events of a stream, name and data, without what differs from run to run.

    The order of a response's headers is no part of what is said; the text of all else is.
    """
    shown = _STREAM_URL.sub(r'"url":"/\1?token=TOKEN"', _RUN.sub("RUN", stream))
    shown = re.sub(r'\\"sleptMs\\":\d+', r'\\"sleptMs\\":0', shown)
    return [
        (name, json.dumps(json.loads(data), sort_keys=True) if name == "response" else data)
        for name, data in _EVENT.findall(shown)
    ]


def fields_of(headers: Mapping[str, str]) -> set[str]:
    """Return the names of the headers that belong to the protocol."""
    return {name for name in headers if name in _OWN or name.startswith("x-inngest-")}


def ops_of(document: Any) -> list[dict[str, Any]]:
    """Return the ops of a checkpoint, or of an answer to a call."""
    found = document.get("steps", [document]) if isinstance(document, dict) else document
    return [op for op in found if "op" in op]


def op_of(op: dict[str, Any]) -> dict[str, Any]:
    """Return an op without what differs from run to run, and what the server does not read."""
    known = {name: op[name] for name in _READ if op.get(name) is not None}
    if op.get("error"):
        known["error"] = {"message": op["error"].get("message")}
    if op.get("timing"):
        known["timing"] = sorted(op["timing"])
    if op["op"] == "StepFailed":
        known.pop("data", None)
    return known
