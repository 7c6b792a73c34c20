"""A load generator: HTTP/1.1 connections on one selector, each with one request at a time.

It does little more than copy bytes (some 25,000 requests per second and processor), so that a
Python server is the bottleneck; ``Burst.busy`` is the share of a processor that it needed.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from time import perf_counter

from _measure import Burst

__all__ = ["load", "wait_for_server"]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class _Connection:
    """One client, which sends the next request as soon as it has the response."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._got = b""
        self._began = 0.0

    def ask(self) -> None:
        """Send the request."""
        self._got = b""
        self._began = perf_counter()
        self.socket.sendall(self._request)

    def read(self) -> float | None:
        """Read the received bytes; return the latency once the response is complete."""
        part = self.socket.recv(65536)
        if not part:
            raise ConnectionError("the server closed the connection")
        self._got += part
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return None
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            raise AssertionError(f"the benchmark got {self._got!r}")
        return perf_counter() - self._began if len(body) >= int(length[1]) else None


def load(
    port: int, path: str, connections: int, seconds: float, *, body: bytes | None = None
) -> Burst:
    """Request the path over this many connections at the same time, for some time.

    ``body`` is JSON text to POST; without one it is a GET request.
    """
    line = f"GET {path}?cart=42" if body is None else f"POST {path}"
    head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench/1.0\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    request = (head + "Accept: */*\r\nAccept-Encoding: gzip, deflate\r\n\r\n").encode()
    request += body or b""
    clients = [_Connection(port, request) for _ in range(connections)]
    latencies: list[float] = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        cpu, began = time.process_time(), perf_counter()
        end = began + seconds
        for client in clients:
            client.ask()
        waiting = connections
        while waiting:
            for key, _ in selector.select():
                latency = key.data.read()
                if latency is None:
                    continue
                latencies.append(latency)
                if perf_counter() < end:
                    key.data.ask()
                else:
                    waiting -= 1
        took, busy = perf_counter() - began, time.process_time() - cpu
    for client in clients:
        client.socket.close()
    return Burst(latencies, took, busy / took)


def wait_for_server(port: int, patience: float = 15.0) -> None:
    """Return when a server listens on the port.

    Raises:
        TimeoutError: no server listens.
    """
    give_up = perf_counter() + patience
    while perf_counter() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise TimeoutError(f"no server on port {port} within {patience} s")
