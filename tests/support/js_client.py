"""The JavaScript client in Node, as the conformance suite calls clients."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from durable_client import ClientResponse
from durable_core.codec.stream_events import Chunk, Commit, Metadata, Rollback
from durable_core.errors import RequestTimeoutError, StreamEndedError
from durable_core.http.headers import Headers
from support.source_tree import ROOT

__all__ = ["JavaScriptError", "call", "clients", "error_of", "event_of"]

_CALL = ROOT / "tests" / "support" / "call_durable.mjs"


class JavaScriptError(Exception):
    """What the client has thrown, of a kind that has no equal in Python."""


#: The errors of Python's client, by the names of those that say the same.
_ERRORS = {"StreamError": StreamEndedError, "TimeoutError": RequestTimeoutError}


def call(url: str, *, timeout: float = 30.0, **options: Any) -> ClientResponse:
    """Call an endpoint; pass what the client is told on to the callbacks.

    Raises:
        StreamEndedError: no response came.
        JavaScriptError: what else the client has thrown.
    """
    on = {name: options.pop(f"on_{name}", None) for name in ("metadata", "data", "commit")}
    on["rollback"] = options.pop("on_rollback", None)
    if "max_reconnects" in options:
        options["maxReconnects"] = options.pop("max_reconnects")
    headers = list(Headers(options.pop("headers", ())).items())
    argument = {"url": url, "headers": headers, "timeout": round(timeout * 1000), **options}
    with subprocess.Popen(
        ["node", str(_CALL), json.dumps(argument)], stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdout is not None
        for line in node.stdout:
            kind, value = json.loads(line)
            if kind == "error":
                raise error_of(*value)
            if kind == "response":
                body = base64.b64decode(value["body"])
                return ClientResponse(value["status"], Headers(value["headers"]), body)
            callback = on[kind]
            if callback is not None:
                callback(event_of(kind, value))
    raise AssertionError("the client has said nothing of its end")


def error_of(name: str, message: str) -> Exception:
    """Return the error that stands for one that the client has thrown."""
    return _ERRORS.get(name, JavaScriptError)(message)


def event_of(kind: str, value: Mapping[str, Any]) -> object:
    """Return the event that a callback of the client was told of."""
    step_id = value.get("hashedStepId")
    match kind:
        case "metadata":
            return Metadata(run_id=value["runId"])
        case "data":
            return Chunk(data=value["data"], step_id=step_id)
        case "commit":
            return Commit(step_id=step_id)
        case _:
            return Rollback(step_id=step_id)


#: What the suite calls servers with.
clients: Mapping[str, Callable[..., ClientResponse]] = {"node": call}
