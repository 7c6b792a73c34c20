"""Event streams: from push to the client, chunks per second, and what open streams hold.

A bare event stream of the same server takes turns with ours, and so do the readers in another
process: a bare socket, ``fetch_with_stream`` and ``fetch_with_stream_async``. Latency is
from the moment a chunk is made to the moment the socket has read it, or ``on_data`` is called.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _load import wait_for_server
from _measure import (
    Burst,
    arguments,
    interleaved,
    machine,
    median,
    ratio,
    save_json,
    show,
    work_folder,
)
from _streaming import FOLDER, SERVER

from durable_client import Chunk, fetch_with_stream, fetch_with_stream_async

_SERVERS = {
    "waitress": "-m waitress --listen 127.0.0.1:{port} --threads 8 _streaming:wsgi",
    "uvicorn": "-m uvicorn --port {port} --log-level warning --no-access-log _streaming:asgi",
    "asyncio": "-m _streaming {port}",
}
#: Servers that need a thread for each open stream.
_THREADED = ("waitress",)
_TIME = re.compile(rb'"t":(\d+)')
_REDIRECT = re.compile(rb'"url":"http://[^/]+([^"]+)"')
_ENDPOINTS = ("bare", "ours")
#: What reads the bare endpoint, and what reads ours.
_PAIRS = (
    ("socket", "socket"),
    ("fetch", "fetch"),
    ("fetch_async", "fetch_async"),
    ("socket", "fetch"),
)


@contextmanager
def _served(server: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Serve from a process of its own; yield its port and its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        FOLDER: str(folder),
        SERVER: server,
    }
    command = [sys.executable, *_SERVERS[server].format(port=port).split()]
    process = subprocess.Popen(command, env=environment, cwd=folder)
    try:
        wait_for_server(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(20)


def _ask(port: int, target: str) -> socket.socket:
    """Request an event stream."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def _by_socket(port: int, target: str) -> list[float]:
    """Read a stream to its end; return the age of each chunk, seconds."""
    latencies: list[float] = []
    with closing(_ask(port, target)) as connection:
        rest, is_over = b"", False
        while not is_over:
            data = connection.recv(262_144)
            now = time.perf_counter_ns()
            assert data, f"the stream ended after {len(latencies)} chunks"
            whole, _, rest = (rest + data).rpartition(b"\n\n")
            latencies += [(now - int(found)) / 1e9 for found in _TIME.findall(whole)]
            is_over = b"inngest.response" in whole
    return latencies


class _Ages:
    """Notes the age of each chunk when ``on_data`` is called."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_data(self, chunk: Chunk) -> None:
        data: Any = chunk.data
        self.seconds.append((time.perf_counter_ns() - data["t"]) / 1e9)


def _by_fetch(port: int, target: str) -> list[float]:
    ages = _Ages()
    fetch_with_stream(f"http://127.0.0.1:{port}{target}", on_data=ages.on_data)
    return ages.seconds


def _by_fetch_async(port: int, target: str) -> list[float]:
    ages = _Ages()
    asyncio.run(fetch_with_stream_async(f"http://127.0.0.1:{port}{target}", on_data=ages.on_data))
    return ages.seconds


_READERS = {"socket": _by_socket, "fetch": _by_fetch, "fetch_async": _by_fetch_async}


def _turn(port: int, endpoint: str, reader: str, count: int, pause: float) -> Burst:
    began = time.perf_counter()
    latencies = _READERS[reader](port, f"/{endpoint}?count={count}&pause={pause}")
    assert count == len(latencies)
    return Burst(latencies, time.perf_counter() - began)


def _resident(pid: int) -> int:
    """Return the memory that a process holds, KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found is not None
    return int(found[1])


def _until(connection: socket.socket, what: bytes) -> bytes:
    data = b""
    while what not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    return data


def _open_streams(port: int, pid: int, count: int) -> float:
    """Return how many KiB each client costs, of this many that follow a sleeping run."""
    with closing(_ask(port, "/asleep")) as first:
        found = _REDIRECT.search(_until(first, b"redirect_info"))
    assert found is not None
    target = found[1].decode()
    with closing(_ask(port, target)) as warm:
        _until(warm, b"inngest.metadata")
    before = _resident(pid)
    held = [_ask(port, target) for _ in range(count)]
    try:
        for connection in held:
            _until(connection, b"inngest.metadata")
        return (_resident(pid) - before) / count
    finally:
        for connection in held:
            connection.close()


def _lazy_reader(port: int, pid: int, chunks: int) -> tuple[float, float]:
    """Return by how many MiB a process grows when its run pushes this much data.

    First its client reads; then the client does not read at all, and another one follows the run
    to its end.
    """
    grown = []
    for reads in (True, False):
        before = _resident(pid)
        with closing(_ask(port, f"/ours?count={chunks}&pause=0")) as attached:
            head = _until(attached, b"redirect_info")
            found = _REDIRECT.search(head + _until(attached, b"\n\n"))
            assert found is not None
            if reads:
                _until(attached, b"inngest.response")
            else:
                target = found[1].decode().replace("&durable-from=handoff", "")
                with closing(_ask(port, target)) as other:
                    _until(other, b"inngest.response")
            grown.append((_resident(pid) - before) / 1024)
    return grown[0], grown[1]


def _rows(bursts: dict[str, list[Burst]]) -> Iterator[dict[str, object]]:
    """Yield a row for each pair of readers."""
    for readers in _PAIRS:
        bare, ours = (bursts[" ".join(each)] for each in zip(_ENDPOINTS, readers, strict=True))
        row: dict[str, object] = {"readers": ":".join(dict.fromkeys(readers))}
        for name, figure in _FIGURES.items():
            row[f"bare_{name}"] = median(map(figure, bare))
            row[f"ours_{name}"] = median(map(figure, ours))
            row[f"{name}_to_bare"] = ratio(ours, bare, figure)
        yield row


_FIGURES: dict[str, Callable[[Burst], float]] = {
    "p50_ms": lambda burst: burst.p50 * 1000,
    "p99_ms": lambda burst: burst.p99 * 1000,
    "rate": lambda burst: burst.rate,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """The sizes of the measurement.

    Attributes:
        rounds: turns of each.
        paced, fast: chunks per turn, with 2 ms between chunks and without a pause.
        flood: chunks of a run whose client may not read.
        clients: open streams.
    """

    rounds: int
    paced: int
    fast: int
    flood: int
    clients: int


_WHOLE = _Sizes(rounds=5, paced=500, fast=10_000, flood=20_000, clients=1_000)
_QUICK = _Sizes(rounds=2, paced=200, fast=2_000, flood=2_000, clients=100)


def _speed(port: int, sizes: _Sizes) -> Iterator[dict[str, object]]:
    for pause, count in ((0.002, sizes.paced), (0, sizes.fast)):
        turns = {
            f"{endpoint} {reader}": partial(_turn, port, endpoint, reader, count, pause)
            for endpoint in _ENDPOINTS
            for reader in _READERS
        }
        for row in _rows(interleaved(turns, sizes.rounds)):
            yield {"pause_ms": pause * 1000, **row}


def _memory(port: int, pid: int, server: str, sizes: _Sizes) -> Iterator[dict[str, object]]:
    print(f"\n{server}:")
    if server not in _THREADED:
        held = _open_streams(port, pid, sizes.clients)
        print(f"an open stream holds {held:.1f} KiB ({sizes.clients} of them)")
        yield {"kib_per_stream": held}
    read, unread = _lazy_reader(port, pid, sizes.flood)
    print(f"a run of {sizes.flood} chunks: {read:.1f} MiB more when its client reads,")
    print(f"{unread:.1f} MiB more when its client never reads")
    yield {"read_mib": read, "unread_mib": unread}


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    parser = arguments(__doc__)
    parser.add_argument("--server", nargs="+", choices=_SERVERS, default=["asyncio", "uvicorn"])
    options = parser.parse_args()
    sizes = _QUICK if options.quick else _WHOLE
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    speeds: list[dict[str, object]] = []
    memories: list[dict[str, object]] = []
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        for server in options.server:
            with _served(server, folder / server) as (port, pid):
                speeds += [{"server": server, **row} for row in _speed(port, sizes)]
                memory = _memory(port, pid, server, sizes)
                memories += [{"server": server, **row} for row in memory]
    head = ["server", "pause ms", "readers", "bare p50 ms", "ours", "o/b", "bare p99 ms", "ours"]
    head += ["o/b", "bare chunks/s", "ours", "o/b"]
    show("event streams", head, [list(row.values()) for row in speeds])
    save_json(options.json, {"machine": facts, "figures": speeds + memories})


if __name__ == "__main__":
    main()
