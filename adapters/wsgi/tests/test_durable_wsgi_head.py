"""What the head of a request tells before there is a run for it."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core import Limits
from durable_wsgi import length_of_plain


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0),
        ({"CONTENT_LENGTH": "7"}, 7),
        ({"CONTENT_LENGTH": "99999999999"}, None),
        ({"CONTENT_LENGTH": "-1"}, None),
        ({"CONTENT_LENGTH": ""}, 0),
        ({"REQUEST_METHOD": "HEAD"}, None),
        ({"QUERY_STRING": "a=1&b=%20"}, 0),
        ({"QUERY_STRING": "durable-run=1"}, None),
        ({"QUERY_STRING": "durable%2Drun=1"}, None),
        ({"HTTP_HOST": "a:65536"}, None),
        ({"HTTP_HOST": ""}, None),
        ({"HTTP_ACCEPT": "text/event-stream"}, None),
        ({"HTTP_IDEMPOTENCY_KEY": "k"}, None),
        ({"HTTP_LAST_EVENT_ID": "1"}, None),
        ({"HTTP_PREFER": "respond-async"}, None),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, None),
        ({"SERVER_PROTOCOL": "HTTP/2"}, None),
    ],
)
def test_requests_for_which_no_run_has_to_be_made_at_once(
    changes: dict[str, str], expected: int | None
) -> None:
    """Only a request for a new run, whose head is not to be refused, may have its run later."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "",
        "HTTP_HOST": "localhost:5000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        **changes,
    }
    assert expected == length_of_plain(environ, Limits())
