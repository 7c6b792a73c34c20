"""What the bodies of the server's answers say."""

from __future__ import annotations

import json

from durable_inngest._calls import Answered

__all__ = ["ids_of", "nothing", "refusal"]


def nothing(answer: Answered) -> None:
    """Read an answer that says nothing but its status."""


def ids_of(answer: Answered) -> list[str]:
    """Return the ids that the server gives events; ValueError if there are none."""
    document = json.loads(answer.body)
    ids = document.get("ids") if isinstance(document, dict) else None
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ValueError("the answer has no ids of events")
    return ids


def refusal(answer: Answered) -> str:
    """Return what an answer that is no success says, for a log."""
    text = answer.body[:200].decode("utf-8", "replace").strip()
    return f"it answers {answer.status} {text}".rstrip()
