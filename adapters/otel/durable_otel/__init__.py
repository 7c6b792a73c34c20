"""Traces and metrics of durable endpoints, by OpenTelemetry."""

from __future__ import annotations

from durable_otel._observer import OpenTelemetryObserver

__all__ = ["OpenTelemetryObserver"]
