"""How a connection ends."""

from __future__ import annotations

import socket
import threading

from durable_core.adapter.server import lingering_close


def test_linger() -> None:
    """The answer arrives, although the client still sends what nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        client.sendall(b"x" * 50_000)
        server.sendall(b"refused")

        def end() -> None:
            lingering_close(server)
            server.close()

        thread = threading.Thread(target=end)
        thread.start()
        client.settimeout(10)
        seen = b"".join(iter(lambda: client.recv(100), b""))
        client.close()
        thread.join()

    assert b"refused" == seen


def test_linger_on_a_broken_connection() -> None:
    """There is nothing to be done, and no error."""
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()

    lingering_close(ours)
