"""A page for looking at the runs of an application, and acting on them."""

from __future__ import annotations

from durable_dashboard._dashboard import Dashboard, create_dashboard_server

__all__ = ["Dashboard", "create_dashboard_server"]
