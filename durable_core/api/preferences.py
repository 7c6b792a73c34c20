"""Requests of clients that would rather not wait: ``Prefer`` (RFC 7240) at an endpoint."""

from __future__ import annotations

from dataclasses import replace

from durable_core.flow.wait_url import applied_fields
from durable_core.http.headers import Headers, parse_prefer
from durable_core.runners.settings import RegisteredEndpoint

__all__ = ["preferring"]


def preferring(endpoint: RegisteredEndpoint, headers: Headers) -> RegisteredEndpoint:
    """Return the endpoint as it serves a request with these headers.

    A client that prefers not to wait (``respond-async``), or only for a time (``wait``), gets 202
    in place of a redirect or a token, at once or after that time. The time that the endpoint itself
    allows may be shorter.
    """
    prefers = parse_prefer(headers)
    options, limit = endpoint.options, 1000 * (prefers.wait or 0)
    if prefers.wait is None and not prefers.respond_async:
        return endpoint
    if options.omit_request_body and limit == 0:
        return endpoint  # a replay, by which the run would begin, has no body
    if options.max_sync_runtime is not None:
        limit = min(limit, options.max_sync_runtime)
    applied = ["respond-async"] if prefers.respond_async else []
    if prefers.wait is not None:
        applied.append(f"wait={limit // 1000}")
    preferred = replace(
        options,
        max_sync_runtime=limit,
        handoff_headers=applied_fields(", ".join(applied)),
    )
    if isinstance(options.async_response, str):
        preferred = replace(preferred, async_response="accepted")
    return replace(endpoint, options=preferred)
