"""What a client says it accepts."""

from __future__ import annotations

from durable_core.model.headers import Headers

__all__ = ["accepts_stream"]


def accepts_stream(headers: Headers) -> bool:
    """Tell whether the client asks for an event stream.

    As the existing clients of the protocol have it: ``text/event-stream`` is anywhere in
    ``Accept``, in whatever case, whatever its weight.
    """
    return any("text/event-stream" in value.lower() for value in headers.get_all("accept"))
