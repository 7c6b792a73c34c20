"""Event streams: from push to the client, chunks per second, and what open streams hold.

A bare event stream of the same server takes turns with ours. Latency is from the moment a chunk is
made to the moment a client in another process has read it.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

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

_SERVERS = {
    "uvicorn": "-m uvicorn --port {port} --log-level warning --no-access-log _streaming:asgi",
    "asyncio": "-m _streaming {port}",
}
_TIME = re.compile(rb'"t":(\d+)')
_REDIRECT = re.compile(rb'"url":"http://[^/]+([^"]+)"')
_NAMES = ("bare", "ours")


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
    """Ask for an event stream."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def _follow(port: int, name: str, count: int, pause: float) -> Burst:
    """Read a stream to its last chunk; note how old each is."""
    latencies: list[float] = []
    began = time.perf_counter()
    with closing(_ask(port, f"/{name}?count={count}&pause={pause}")) as connection:
        rest = b""
        while len(latencies) < count:
            data = connection.recv(262_144)
            now = time.perf_counter_ns()
            assert data, f"the stream ended after {len(latencies)} chunks"
            whole, _, rest = (rest + data).rpartition(b"\n\n")
            latencies += [(now - int(found)) / 1e9 for found in _TIME.findall(whole)]
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
    """Return how many KiB each of so many clients costs that follow a sleeping run."""
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
    """Return by how many MiB a process grows whose run pushes that much.

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


def _row(bursts: dict[str, list[Burst]]) -> dict[str, float]:
    bare, ours = (bursts[name] for name in _NAMES)
    return {
        "bare_p50_ms": median(burst.p50 for burst in bare) * 1000,
        "ours_p50_ms": median(burst.p50 for burst in ours) * 1000,
        "bare_p99_ms": median(burst.p99 for burst in bare) * 1000,
        "ours_p99_ms": median(burst.p99 for burst in ours) * 1000,
        "p50_to_bare": ratio(ours, bare, lambda burst: burst.p50),
        "bare_rate": median(burst.rate for burst in bare),
        "ours_rate": median(burst.rate for burst in ours),
        "rate_to_bare": ratio(ours, bare, lambda burst: burst.rate),
    }


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = arguments(__doc__)
    parser.add_argument("--server", nargs="+", choices=sorted(_SERVERS), default=sorted(_SERVERS))
    options = parser.parse_args()
    rounds = 2 if options.quick else 7
    count, flood, clients = (200, 2_000, 100) if options.quick else (500, 20_000, 1_000)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures: list[dict[str, object]] = []
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        for server in options.server:
            with _served(server, folder / server) as (port, pid):
                for pause, chunks in ((0.002, count), (0, flood)):
                    turns = {name: partial(_follow, port, name, chunks, pause) for name in _NAMES}
                    row = _row(interleaved(turns, rounds))
                    figures.append({"server": server, "pause_ms": pause * 1000, **row})
                held = _open_streams(port, pid, clients)
                read, unread = _lazy_reader(port, pid, flood)
            print(f"\n{server}: an open stream holds {held:.1f} KiB ({clients} of them);")
            print(f"a run of {flood} chunks: {read:.1f} MiB more when its client reads,")
            print(f"{unread:.1f} MiB more when its client never reads")
            figures.append(
                {"server": server, "kib_per_stream": held, "read_mib": read, "unread_mib": unread}
            )
    rows = [list(each.values()) for each in figures if "pause_ms" in each]
    head = ["server", "pause ms", "bare p50 ms", "ours p50 ms", "bare p99", "ours p99"]
    show("event streams", [*head, "p50 o/b", "bare/s", "ours/s", "rate o/b"], rows)
    save_json(options.json, {"machine": facts, "figures": figures})


if __name__ == "__main__":
    main()
