"""Metrics of durable endpoints, for Prometheus to scrape."""

from __future__ import annotations

from durable_prometheus._observer import PrometheusObserver

__all__ = ["PrometheusObserver"]
