"""SIGTERM under every server that the documentation names: no client that waits is cut off.

Servers wait for open requests when they stop. Those that are held open on purpose must end by
themselves, and lead their clients on.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from support.harness import until
from support.server_processes import GUNICORN, OWN, Answer, Server, serving

pytestmark = pytest.mark.slow

#: A client is led on within a second; a busy machine gets another one.
SOON = 2.0
EVENT_STREAM = {"accept": "text/event-stream"}

ASGI = ("support.stopping_app:asgi()",)
FACTORY = ("support.stopping_app:asgi",)
UVICORN = ("-m", "uvicorn", "--factory", *FACTORY, "--port=PORT", "--no-access-log")
UVICORN_WORKER = ("-W", "ignore::DeprecationWarning", *GUNICORN)

ASGI_SERVERS: dict[str, tuple[str, ...]] = {
    "uvicorn": (*UVICORN, "--loop=asyncio"),
    "uvicorn-uvloop": (*UVICORN, "--loop=uvloop"),
    "uvicorn-workers": (*UVICORN, "--workers=2"),
    "uvicorn-reload": (*UVICORN, "--reload", "--reload-dir=FOLDER"),
    "hypercorn": ("-m", "hypercorn", "--bind=127.0.0.1:PORT", *ASGI),
    "hypercorn-workers": ("-m", "hypercorn", "--bind=127.0.0.1:PORT", "--workers=2", *ASGI),
    "hypercorn-uvloop": ("-m", "hypercorn", "--bind=127.0.0.1:PORT", "-k", "uvloop", *ASGI),
    "granian": ("-m", "granian", "--interface=asgi", "--port=PORT", "--factory", *FACTORY),
    "granian-workers": (
        *("-m", "granian", "--interface=asgi", "--port=PORT", "--workers=2", "--factory"),
        *FACTORY,
    ),
    "gunicorn-uvicorn": (
        *UVICORN_WORKER,
        "--worker-class=uvicorn.workers.UvicornWorker",
        "--workers=2",
        *ASGI,
    ),
    "gunicorn-asgi": (*GUNICORN, "--worker-class=asgi", "--workers=2", *ASGI),
    "own-asgi": (*OWN, "asgi", "PORT"),
    "own-asyncio": (*OWN, "asyncio", "PORT"),
}
WSGI_SERVERS: dict[str, tuple[str, ...]] = {
    "gunicorn-gthread": (
        *(*GUNICORN, "--config=FOLDER/gunicorn.conf.py"),
        *("--worker-class=gthread", "--threads=8", "--workers=2", "support.stopping_app:wsgi()"),
    ),
    "waitress": (*OWN, "waitress", "PORT"),
    "own-wsgi": (*OWN, "wsgi", "PORT"),
}
#: One request at a time.
SYNC_SERVER = (*GUNICORN, "--config=FOLDER/gunicorn.conf.py", "support.stopping_app:wsgi()")


def in_gate(server: Server, folder: Path, path: str, **headers: str) -> Future[Answer]:
    """Start a request whose run is in the middle of a step."""
    gate = folder / f"gate-{len(list(folder.glob('*.reached')))}"
    client = server.start(f"{path}?gate={gate}", headers)
    until(Path(f"{gate}.reached").exists)
    return client


def open_gates(folder: Path) -> None:
    """Let all steps end."""
    for reached in folder.glob("*.reached"):
        reached.with_suffix("").touch()


@pytest.mark.parametrize("command", ASGI_SERVERS.values(), ids=ASGI_SERVERS.keys())
def test_clients_of_event_loops(command: tuple[str, ...], tmp_path: Path) -> None:
    """Redirected at once, also in the middle of a step; event streams end after they say where."""
    with serving(tmp_path, command) as server:
        url = server.wait_url()
        waiting = server.start(url)
        stream = server.start(url, EVENT_STREAM)
        attached = [in_gate(server, tmp_path, path) for path in ("/gated", "/sync-gated")]
        streamed = in_gate(server, tmp_path, "/gated", **EVENT_STREAM)
        until(lambda: server.waiting_clients() == 2)
        at = server.terminate()
        assert_led_on(at, waiting, stream)
        for client in attached:
            answer = client.result(30)
            assert (302, "?durable-run=") == (answer.status, answer.location[:13])
            assert answer.at - at < SOON
        answer = streamed.result(30)
        assert "inngest.redirect_info" in answer.body
        assert answer.at - at < SOON
        open_gates(tmp_path)


def assert_led_on(at: float, waiting: Future[Answer], stream: Future[Answer]) -> None:
    """Judge the clients at a wait URL, which were there when the signal came."""
    answer = waiting.result(30)
    assert (303, "?durable-run=") == (answer.status, answer.location[:13])
    assert answer.at - at < SOON
    answer = stream.result(30)  # the body has a whole end, else reading it would fail
    assert (200, True) == (answer.status, "inngest.metadata" in answer.body)
    assert answer.at - at < SOON


@pytest.mark.parametrize("command", WSGI_SERVERS.values(), ids=WSGI_SERVERS.keys())
def test_clients_of_threads(command: tuple[str, ...], tmp_path: Path) -> None:
    """The same; but a client in the middle of a step is redirected when the step ends."""
    with serving(tmp_path, command) as server:
        url = server.wait_url()
        waiting = server.start(url)
        stream = server.start(url, EVENT_STREAM)
        attached = in_gate(server, tmp_path, "/sync-gated")
        streamed = in_gate(server, tmp_path, "/sync-gated", **EVENT_STREAM)
        until(lambda: server.waiting_clients() == 2)
        at = server.terminate()
        assert_led_on(at, waiting, stream)
        answer = streamed.result(30)
        assert "inngest.redirect_info" in answer.body
        assert answer.at - at < SOON
        opened = time.monotonic()
        open_gates(tmp_path)
        answer = attached.result(30)
        assert (302, "?durable-run=") == (answer.status, answer.location[:13])
        assert answer.at - opened < SOON


@pytest.mark.parametrize("path", ["wait", "/sync-gated"])
def test_clients_of_a_sync_worker(path: str, tmp_path: Path) -> None:
    """The one client that is served is led on too, or gets its response."""
    with serving(tmp_path, SYNC_SERVER) as server:
        if path == "wait":
            client = server.start(server.wait_url())
            time.sleep(0.5)  # the server could not say whether it is held
        else:
            client = in_gate(server, tmp_path, path)
        at = server.terminate()
        open_gates(tmp_path)
        answer = client.result(30)
        assert answer.at - at < SOON / 2  # such a worker holds nobody for longer than 2 s anyway
        if answer.status != 200 or path == "wait":
            assert "?durable-run=" == answer.location[:13]
