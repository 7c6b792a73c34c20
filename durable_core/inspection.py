"""What ``Durable.processes``, ``recent_events``, ``endpoints`` and ``runs.streamed`` return."""

from __future__ import annotations

from durable_core.api.inspection import EndpointInfo, EventInfo, ProcessInfo, StreamedChunk

__all__ = ["EndpointInfo", "EventInfo", "ProcessInfo", "StreamedChunk"]
