"""Event streams between processes: how old a chunk is at a client of another process.

One process executes the run and pushes. One client reads in that process, and another in a second
process on the same store, which gets the chunks of the running step by the channel beside it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from _load import wait_for_server
from _measure import Burst, arguments, machine, median, save_json, show, work_folder
from _streaming import FOLDER

_TIME = re.compile(rb'"t":(\d+)')
_REDIRECT = re.compile(rb'"url":"http://[^/]+([^"]+)"')


@contextmanager
def _served(folder: Path) -> Iterator[int]:
    """Serve from a process of its own; yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), FOLDER: str(folder)}
    command = [sys.executable, "-m", "_streaming", str(port)]
    process = subprocess.Popen(command, env=environment, cwd=folder)
    try:
        wait_for_server(port)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _ask(port: int, target: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def _target(connection: socket.socket) -> tuple[str, bytes]:
    """Return the path that streams the run from its beginning, and the bytes read so far."""
    data = b""
    while (found := _REDIRECT.search(data)) is None:
        part = connection.recv(65536)
        assert part, data
        data += part
    return found[1].decode().replace("&durable-from=handoff", ""), data


def _ages(connection: socket.socket, count: int, rest: bytes = b"") -> list[float]:
    """Read to the last chunk; return the age of each chunk when it was received, seconds."""
    ages: list[float] = []
    while True:
        now = time.perf_counter_ns()
        whole, _, rest = rest.rpartition(b"\n\n")
        ages += [(now - int(found)) / 1e9 for found in _TIME.findall(whole)]
        if len(ages) == count:
            return ages
        data = connection.recv(262_144)
        assert data, f"the stream ended after {len(ages)} chunks"
        rest += data


def _turn(here: int, there: int, count: int, pause: float) -> dict[str, Burst]:
    """Let both clients follow one run; the second client begins when the run's URL is known."""
    began = time.perf_counter()
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        first = stack.enter_context(closing(_ask(here, f"/ours?count={count}&pause={pause}")))
        target, seen = _target(first)
        second = stack.enter_context(closing(_ask(there, target)))
        reading = {
            "same process": pool.submit(_ages, first, count, seen),
            "another process": pool.submit(_ages, second, count),
        }
        # Chunks pushed before the second client connected do not measure the channel.
        return {
            name: Burst(ages.result()[count // 5 :], time.perf_counter() - began)
            for name, ages in reading.items()
        }


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = arguments(__doc__).parse_args()
    rounds, count = (2, 100) if options.quick else (7, 300)
    rows, figures = [], []
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        with _served(folder) as here, _served(folder) as there:
            for pause in (0.1, 0.01, 0.002):
                turns = [_turn(here, there, count, pause) for _ in range(rounds + 1)][1:]
                for name in turns[0]:
                    bursts = [turn[name] for turn in turns]
                    p50 = median(burst.p50 for burst in bursts) * 1000
                    p99 = median(burst.p99 for burst in bursts) * 1000
                    rows.append([name, pause * 1000, p50, p99])
                    figures.append(
                        {"reader": name, "pause_ms": pause * 1000, "p50_ms": p50, "p99_ms": p99}
                    )
    show("age of a chunk at its client", ["reader", "pause ms", "p50 ms", "p99 ms"], rows)
    save_json(options.json, {"machine": facts, "figures": figures})


if __name__ == "__main__":
    main()
