"""The process of its own that serves one subject."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from _hosted import FOLDER, NAME, STEPS
from _load import wait_for_server

__all__ = ["SERVERS", "served"]

#: The servers to choose from, and how each is started on a port.
SERVERS = {
    "gunicorn": "-m gunicorn -k gthread --threads 64 --keep-alive 60 -b 127.0.0.1:{port} "
    "--log-level warning _hosted:wsgi",
    "waitress": "-m waitress --threads=64 --listen=127.0.0.1:{port} _hosted:wsgi",
    "uvicorn": "-m uvicorn --port {port} --lifespan off --log-level warning --no-access-log "
    "_hosted:asgi",
    "asyncio": "-m _hosted {port}",
}


@contextmanager
def served(server: str, name: str, steps: Iterable[int], folder: Path) -> Iterator[int]:
    """Serve a subject from a process of its own; yield the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        FOLDER: str(folder),
        NAME: name,
        STEPS: ",".join(map(str, steps)),
    }
    command = [sys.executable, *SERVERS[server].format(port=port).split()]
    process = subprocess.Popen(command, env=environment, cwd=folder)
    try:
        wait_for_server(port)
        yield port
    finally:
        process.terminate()
        process.wait(20)
