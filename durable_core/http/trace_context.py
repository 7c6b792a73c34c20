"""The trace context of a request: the header ``traceparent`` of W3C Trace Context.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re

from durable_core.http.headers import Headers

__all__ = ["is_traceparent", "trace_id_of", "traceparent_of"]

#: Version, trace id, parent id, flags. Ids of zeros are invalid, and so is the version ff.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def is_traceparent(value: object) -> bool:
    """Tell whether a value is a trace context that may be kept."""
    return isinstance(value, str) and _TRACEPARENT.fullmatch(value) is not None


def traceparent_of(headers: Headers) -> str | None:
    """Return the trace context of a request; None if it has none, several, or an invalid one.

    A context of a later version may have more fields: the four that are known are kept.
    """
    # Not by ``get``, which is an error in the replays of an engine that keeps no headers.
    found = [value for name, value in headers.raw if name.lower() == "traceparent"]
    if len(found) != 1:
        return None
    value = found[0].strip(" \t")
    if value[:2] != "00" and value[55:56] == "-":
        value = value[:55]
    return value if is_traceparent(value) else None


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id, 32 hexadecimal digits, of a trace context."""
    return None if traceparent is None else traceparent[3:35]
