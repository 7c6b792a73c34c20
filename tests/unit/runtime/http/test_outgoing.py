"""The requests of a client of a stream."""

from __future__ import annotations

from durable_core.http.headers import Headers
from durable_core.model.outgoing import Timeouts
from durable_core.runtime.http.outgoing import Requests
from durable_core.wire.following_commands import Open


def test_only_the_first_request_has_the_body() -> None:
    """And all have the idle time."""
    requests = Requests(body=b"hello", idle_timeout=3)
    for sends_body in (True, False):
        command = Open(
            number=1,
            method="POST",
            url="http://a/x",
            headers=Headers({"a": "b"}),
            sends_body=sends_body,
        )
        request = requests.of(command)

        assert ("POST", "http://a/x", Headers({"a": "b"})) == (
            request.method,
            request.url,
            request.headers,
        )
        assert (b"hello" if sends_body else None) == request.body
        assert Timeouts(connect=10, idle=3) == request.timeouts
