"""``HTTPException`` in steps: the step has failed, and the application answers as always.

What is kept of the exception with the step is the response that FastAPI makes of it.
"""

from __future__ import annotations

import json
import sys

from starlette.exceptions import HTTPException

from durable_core import Response
from durable_core.adapters import response_of_step
from durable_core.errors import StepError

__all__ = ["exception_to_response", "http_exception_of"]


def exception_to_response(error: Exception) -> Response | None:
    """Return what is kept of an ``HTTPException`` that a step has raised; None for other errors."""
    if not isinstance(error, HTTPException):
        return None
    headers = list((error.headers or {}).items())
    return Response.json({"detail": error.detail}, error.status_code, headers)


def http_exception_of(error: StepError) -> HTTPException | None:
    """Return the ``HTTPException`` that a step had raised; None if it had raised something else."""
    kept = response_of_step(error)
    if kept is None or not isinstance(kept.body, bytes):
        return None
    try:
        content = json.loads(kept.body)
    except ValueError:
        return None
    if not isinstance(content, dict) or content.keys() != {"detail"}:
        return None
    headers = {name: value for name, value in kept.headers.raw if name != "content-type"}
    # FastAPI's is one of Starlette's, and its application may have a handler for its own.
    fastapi = sys.modules.get("fastapi")
    kind = HTTPException if fastapi is None else fastapi.HTTPException
    made: HTTPException = kind(kept.status, content["detail"], headers or None)
    return made
