"""The one place to import HTTP values from."""

from __future__ import annotations

from durable_core.model import headers, http, params, request, response


def test_it_offers_what_its_parts_define() -> None:
    """Each name is the very object of the module that defines it."""
    assert http.Headers is headers.Headers
    assert http.QueryParams is params.QueryParams
    assert http.Request is request.Request
    assert http.Response is response.Response
