"""Durable endpoints under any WSGI server."""
