"""The server to start from Python."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from durable_asgi import EndpointServer, app, create_endpoint_server
from durable_core import Durable, Request, step
from durable_core.errors import ConfigurationError, StoreError
from support.asgi_sample import make_durable, make_sample
from support.harness import until
from support.ports import ReservedPort, has_ipv6
from support.raw_http import ask

TESTS = Path(make_sample.__code__.co_filename).parents[1]


def test_listen_and_close(tmp_path: Path) -> None:
    """It serves from when ``listen`` returns until ``close`` does, and may listen again."""
    sample = make_sample(tmp_path / "db")
    server = create_endpoint_server(sample)

    with ReservedPort() as reserved:
        port = reserved.number
        for _ in range(2):
            assert server is server.listen(port)
            assert f"http://127.0.0.1:{port}" == server.url
            assert {"doubled": 42} == ask(port, "GET", "/steps?n=21").json()
            assert ask(port, "GET", "/health").json()["started"]
            server.close()
            server.close()
            with pytest.raises(ConnectionRefusedError):
                ask(port, "GET", "/health")


def test_handlers_run_on_the_server_s_loop(tmp_path: Path) -> None:
    """Handlers of the first execution and of replays share the loop of the server's thread."""
    durable = make_durable(tmp_path / "db")
    threads: list[str] = []

    @durable.endpoint
    async def nap(request: Request) -> str:
        threads.append(threading.current_thread().name)
        await step.sleep("nap", 0.5)
        return "rested"

    with create_endpoint_server(nap) as server:
        location = ask(server.port, "GET", "/").get("location")
        assert b'"rested"' == ask(server.port, "GET", f"/{location}").body

    assert {"durable-asgi"} == set(threads)


def test_what_can_be_served(tmp_path: Path) -> None:
    """An endpoint of the core, an application, routes, any ASGI callable."""
    durable = make_durable(tmp_path / "db")
    routes = {"GET /": lambda request: "here"}

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await app(durable, routes)(scope, receive, send)

    for server in (
        create_endpoint_server(app(durable, routes).endpoint),
        create_endpoint_server(app(durable, routes)),
        create_endpoint_server(routes, durable=durable),
        create_endpoint_server(plain),
        create_endpoint_server(plain, durable=durable),
    ):
        with server:
            assert b'"here"' == ask(server.port, "GET", "/").body
    with pytest.raises(ConfigurationError, match="durable="):
        create_endpoint_server(routes)


def test_a_function_that_is_no_endpoint() -> None:
    """It is refused before the server listens, and the message says how it is served."""

    async def forgotten(request: Any) -> str:
        return "never"

    function: Any = forgotten
    message = (
        r"forgotten\(request: .* neither an endpoint nor an application of ASGI.* @durable.endpoint"
    )
    with pytest.raises(ConfigurationError, match=message):
        create_endpoint_server(function)


def test_taken_port(tmp_path: Path) -> None:
    """The caller learns that an address cannot be had; nothing has been started."""
    durable = make_durable(tmp_path / "db")
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = create_endpoint_server(app(durable, {}))
        with pytest.raises(OSError, match="in use"):
            server.listen(other.getsockname()[1])

    assert not durable.health()["started"]
    with pytest.raises(RuntimeError, match="does not listen"):
        _ = server.port


def test_store_that_cannot_be_opened(tmp_path: Path) -> None:
    """The caller gets the error itself."""
    (tmp_path / "db").write_bytes(b"no database at all" * 100)
    server = create_endpoint_server(make_sample(tmp_path / "db"))

    with pytest.raises(StoreError):
        server.listen()


def test_application_that_refuses_to_start() -> None:
    """An application that fails its own startup is an error, too."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="did not start"):
        EndpointServer(application).listen()


def test_listen_twice(tmp_path: Path) -> None:
    """A server has one address."""
    server = create_endpoint_server(make_sample(tmp_path / "db"))
    with server, pytest.raises(RuntimeError, match="listens already"):
        server.listen()


def test_uvicorn_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without uvicorn the error says what to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "durable_asgi._uvicorn", raising=False)

    with pytest.raises(ConfigurationError, match="pip install uvicorn"):
        create_endpoint_server(make_sample(tmp_path / "db")).listen()


@contextmanager
def gate(folder: Path) -> Any:
    """Give the path of a gate, and open it afterwards."""
    path = folder / "gate"
    try:
        yield path
    finally:
        path.touch()


def phases(durable: Durable[Any]) -> list[str]:
    return [each.status for each in durable.runs.list()]


@pytest.mark.parametrize("path", ["/gated", "/sync-gated"])
def test_close_hands_clients_off(tmp_path: Path, path: str) -> None:
    """A client in the middle of a step is sent to the wait URL; the step ends, the run later."""
    sample = make_sample(tmp_path / "db")
    with gate(tmp_path) as step_gate, ThreadPoolExecutor() as clients:
        server = create_endpoint_server(sample).listen()
        asking = clients.submit(ask, server.port, "GET", f"{path}?gate={step_gate}")
        until(lambda: Path(f"{step_gate}.reached").exists())
        closing = clients.submit(server.close)
        redirect = asking.result()
        assert not closing.done()
        assert 302 == redirect.status
        step_gate.touch()
        closing.result()

    with create_endpoint_server(make_sample(tmp_path / "db")) as server:
        reply = ask(server.port, "GET", f"{path}{redirect.get('location')}")
        assert (200, b"through") == (reply.status, reply.body)


def test_held_clients_do_not_keep_it(tmp_path: Path) -> None:
    """A client that waits for a run is sent to wait again, elsewhere or later."""
    durable = make_durable(tmp_path / "db")

    @durable.endpoint
    async def nap(request: Request) -> None:
        await step.sleep("nap", "1h")

    with create_endpoint_server(nap).listen() as server, ThreadPoolExecutor() as clients:
        location = ask(server.port, "GET", "/").get("location")
        waiting = clients.submit(ask, server.port, "GET", f"/{location}")
        until(lambda: durable.health()["waiting_clients"] == 1)
        server.close()
        assert 303 == waiting.result().status


PROGRAM = """
import os
from durable_asgi import serve_endpoint
from support.asgi_host import application
serve_endpoint(application, int(os.environ["PORT"]))
print("closed in good order")
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals(tmp_path: Path, sent: signal.Signals) -> None:
    """``serve_endpoint`` blocks until a signal, hands off, and returns."""
    with (
        gate(tmp_path) as step_gate,
        ThreadPoolExecutor() as clients,
        ReservedPort() as port,
        running(tmp_path, port.number) as process,
    ):
        asking = clients.submit(ask, port.number, "GET", f"/gated?gate={step_gate}")
        until(lambda: Path(f"{step_gate}.reached").exists())
        process.send_signal(sent)
        assert 302 == asking.result().status
        step_gate.touch()
        assert (0, "closed in good order\n") == (process.wait(20), read(process))


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.read()


@contextmanager
def running(folder: Path, port: int) -> Any:
    variables = {
        **os.environ,
        "PYTHONPATH": str(TESTS),
        "DURABLE_TEST_STORE": str(folder / "db"),
        "PORT": str(port),
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=variables, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            until(lambda: answers(port))
            yield process
        finally:
            process.kill()


def answers(port: int) -> bool:
    try:
        return ask(port, "GET", "/health").status == 200
    except OSError:
        return False


def test_nothing_left_behind(tmp_path: Path) -> None:
    """Neither a thread nor a socket remains."""
    before = set(threading.enumerate())
    with create_endpoint_server(make_sample(tmp_path / "db")) as server:
        ask(server.port, "GET", "/steps?n=1")

    check: Callable[[], bool] = lambda: set(threading.enumerate()) <= before  # noqa: E731
    until(check)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("host", "reachable"),
    [("::", ("127.0.0.1", "::1")), ("0.0.0.0", ("127.0.0.1",)), ("::1", ("::1",))],
)
def test_addresses(tmp_path: Path, host: str, reachable: tuple[str, ...]) -> None:
    """All of both, all of IPv4, or just one."""
    durable = make_durable(tmp_path / "db")
    routes = {"GET /": lambda request: "here"}
    with create_endpoint_server(routes, durable=durable).listen(host=host) as server:
        for address in ("127.0.0.1", "::1"):
            if address in reachable:
                assert 200 == ask(server.port, "GET", "/", host=address).status
            else:
                with pytest.raises(ConnectionRefusedError):
                    ask(server.port, "GET", "/", host=address)


def test_it_says_where_it_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line, as the other servers."""
    with (
        caplog.at_level(logging.INFO, "durable.asgi"),
        create_endpoint_server({}, durable=make_durable(tmp_path / "db")) as server,
    ):
        assert [f"serving on {server.url}"] == caplog.messages
