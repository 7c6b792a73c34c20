"""A client of HTTP/1.1 made of the standard library alone: for threads, and for tasks."""

from __future__ import annotations
