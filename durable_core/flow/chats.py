"""Which conversation a run belongs to: a label, by which a client finds the run when it is back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from durable_core.errors import HTTPError
from durable_core.http.request import Request

__all__ = ["CHAT", "with_chat"]

#: The name of the label.
CHAT = "chat"
_MOST_CHARS = 255


_LabelFunction: TypeAlias = Callable[[Request], Mapping[str, str]]


def with_chat(labels: Mapping[str, str] | _LabelFunction | None) -> _LabelFunction:
    """Return ``labels=`` of an endpoint that answers with UI messages.

    The label ``chat`` is the member ``id`` of the request's JSON, where ``useChat`` sends it,
    unless the endpoint has a label of that name.

    Args:
        labels: the endpoint's own.
    """

    def label(request: Request) -> Mapping[str, str]:
        given = labels(request) if callable(labels) else labels or {}
        chat = None if CHAT in given else _chat_of(request)
        return given if chat is None else {**given, CHAT: chat}

    return label


def _chat_of(request: Request) -> str | None:
    try:
        document = request.json()
    except HTTPError:
        return None  # the handler decides what that means
    chat = document.get("id") if isinstance(document, dict) else None
    return chat if isinstance(chat, str) and _can_be_label(chat) else None


def _can_be_label(chat: str) -> bool:
    try:
        chat.encode("utf-8")
    except UnicodeEncodeError:
        return False  # it has a lone surrogate
    return 0 < len(chat) <= _MOST_CHARS
