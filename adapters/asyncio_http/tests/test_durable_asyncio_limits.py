"""How many clients there may be, and how much each may send ahead."""

from __future__ import annotations

import errno
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from durable_asyncio import EndpointServer, _listener, create_endpoint_server
from durable_core.adapters import default_max_connections
from support.asyncio_sample import Sample
from support.processes import until
from support.raw_http import ask, connect, read_reply

BINARY = b"GET /binary HTTP/1.1\r\nHost: x\r\n\r\n"


def test_clients_over_the_limit_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """503 and when to come again; those who are there are served on, and one may come later."""
    sample = Sample(tmp_path / "db")
    server = create_endpoint_server(sample.app, max_connections=2)
    with (
        caplog.at_level(logging.WARNING, "durable.asyncio"),
        server.listen(),
        connect(server.port) as first,
        connect(server.port) as second,
    ):
        for each in (first, second):
            each.sendall(BINARY)
            assert 200 == read_reply(each).status
        with connect(server.port) as third:
            third.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
            third.sendall(bytes(100_000))
            refused = read_reply(third)
            assert b"" == third.recv(1)
        first.sendall(BINARY)
        assert 200 == read_reply(first).status
        second.close()
        until("there is room again", lambda: ask(server.port, "GET", "/binary").status == 200)

    assert (503, "1") == (refused.status, refused.get("retry-after"))
    assert "too many clients are connected" == json.loads(refused.body)["detail"]
    assert "2 clients are connected: further ones are refused" in caplog.messages


@pytest.mark.parametrize("most", [0, -1, True, 1.5, "2"])
def test_limits_are_checked(tmp_path: Path, most: Any) -> None:
    """A number of clients is a whole one above 0."""
    sample = Sample(tmp_path / "db")
    with pytest.raises(ValueError, match="max_connections"):
        create_endpoint_server(sample.app, max_connections=most)
    with pytest.raises(ValueError, match="max_connections"):
        EndpointServer(sample.app, max_connections=most)


def test_a_client_that_sent_very_much_ahead_is_seen_to_go(tmp_path: Path) -> None:
    """Although nobody reads what it sent, its stream ends when it does."""
    sample = Sample(tmp_path / "db")
    with create_endpoint_server(sample.app).listen() as server:
        with connect(server.port) as client:
            client.sendall(b"GET /idle HTTP/1.1\r\nHost: x\r\n\r\n")
            data = b""
            while not data.endswith(b"first\r\n"):
                data += client.recv(1000)
            client.sendall(BINARY * 4000)
            assert [] == sample.endless.ended
        until("the body is closed", lambda: sample.endless.ended == ["idle"])


def test_out_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, and a pause; the client that waits is served when there is room again."""
    sample, left, accept = Sample(tmp_path / "db"), [3], socket.socket.accept

    def exhausted(self: socket.socket) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    monkeypatch.setattr(_listener, "_BACK_OFF", 0.05)
    with create_endpoint_server(sample.app).listen() as server:
        monkeypatch.setattr(socket.socket, "accept", exhausted)
        begun = time.monotonic()
        assert 200 == ask(server.port, "GET", "/binary").status

    assert time.monotonic() - begun >= 3 * 0.05
    assert 3 == sum("no client can be accepted" in message for message in caplog.messages)


def test_the_default_leaves_descriptors_for_others() -> None:
    """As many clients as the process may open files, but for some, and never too many."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        assert (896, 10) == (default_max_connections(10_000), default_max_connections(10))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
