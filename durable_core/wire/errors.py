"""Errors of user code as JSON text, and back as what the handler sees."""

from __future__ import annotations

import json
from collections.abc import Mapping

from durable_core.errors import (
    HTTPError,
    StepCancelled,
    StepError,
    StepResultError,
    StepResultTooLargeError,
)
from durable_core.model.inputs import Failure

__all__ = ["dump_error", "load_step_error"]


_RESULT_ERRORS: Mapping[str, type[StepError]] = {
    "unstorable": StepResultError,
    "too-large": StepResultTooLargeError,
}


def dump_error(failure: Failure) -> str:
    """Return the failure as JSON: ``name``, ``message``, and what else there is to say."""
    fields: dict[str, object] = {"name": failure.name, "message": failure.message}
    if failure.data:
        fields["data"] = json.loads(failure.data)
    if failure.cancelled:
        fields["cancelled"] = True
    if failure.result:
        fields["result"] = failure.result
    if failure.http is not None:
        fields["http"] = failure.http
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def load_step_error(step_id: str, text: str) -> StepError:
    """Return the error that the handler sees for a step whose memo is this failure.

    That of an ``HTTPError`` has it as its cause.
    """
    fields = json.loads(text)
    cls = StepCancelled if fields.get("cancelled") else StepError
    cls = _RESULT_ERRORS.get(fields.get("result", ""), cls)
    error = cls(step_id, fields["name"], fields["message"], fields.get("data"))
    if "http" in fields:
        status, detail, headers = fields["http"]
        error.__cause__ = HTTPError(status, detail, dict(headers))
    return error
