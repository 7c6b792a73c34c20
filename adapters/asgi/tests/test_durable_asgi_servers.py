"""One application, answering the same under every server; judged by what is on the wire."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from durable_core.codec.sse import SSEDecoder
from support import raw_http
from support.asgi_sample import ALL_BYTES, CHUNKS, FLOOD, METHODS, make_sample
from support.harness import until
from support.ports import ReservedPort
from support.raw_http import Reply, connect, exchange, read_reply
from support.store_file import StoreFile
from support.streams import described

pytestmark = pytest.mark.slow

TESTS = Path(make_sample.__code__.co_filename).parents[1]
SAMPLE = "support.asgi_host:application"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs in a process of its own, and how its application is reached."""

    port: int
    process: subprocess.Popen[str]
    log: Path

    def ask(
        self,
        method: str,
        target: str,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes | None = None,
    ) -> Reply:
        return raw_http.ask(self.port, method, target, headers=headers, body=body)

    def send(self, target: str) -> socket.socket:
        """Send a request and do not read the answer."""
        connection = connect(self.port)
        head = f"GET {target} HTTP/1.1\r\nHost: localhost:{self.port}\r\n\r\n"
        connection.sendall(head.encode())
        return connection

    def phase_of(self, label: str) -> list[str]:
        """Return the phases of all runs with this label."""
        return [each["status"] for each in self.ask("GET", "/runs").json() if each["id"] == label]

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.ask("GET", "/health").status == 200
        except (OSError, ValueError):
            return False


Starter = Callable[[Path], AbstractContextManager[Server]]


def command(*words: str) -> Starter:
    """Return what starts a server by a command in which ``PORT`` stands for the port."""

    def line(port: ReservedPort) -> list[str]:
        return [
            *(sys.executable, "-m"),
            *(word.replace("PORT", str(port.number)) for word in words),
            SAMPLE,
        ]

    @contextmanager
    def start(folder: Path) -> Iterator[Server]:
        log = folder / "log"
        variables = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "DURABLE_TEST_STORE": str(folder / "db"),
        }
        with (
            ReservedPort() as port,
            log.open("a") as out,
            subprocess.Popen(
                line(port), env=variables, stdout=out, stderr=out, text=True
            ) as process,
        ):
            server = Server(port.number, process, log)
            try:
                until(server.answers)
                yield server
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
        assert process.returncode in (0, -signal.SIGTERM), log.read_text()

    return start


UVICORN = ("uvicorn", "--port=PORT", "--no-access-log")
HYPERCORN = ("hypercorn", "--bind=127.0.0.1:PORT")
GRANIAN = ("granian", "--interface=asgi", "--port=PORT")
SERVERS: dict[str, Starter] = {
    "uvicorn-asyncio": command(*UVICORN, "--loop=asyncio", "--http=h11"),
    "uvicorn-uvloop": command(*UVICORN, "--loop=uvloop", "--http=httptools"),
    "uvicorn-root-path": command(*UVICORN, "--root-path=/shop"),
    "hypercorn": command(*HYPERCORN),
    "hypercorn-root-path": command(*HYPERCORN, "--root-path=/shop"),
    "granian": command(*GRANIAN),
    "granian-uvloop": command(*GRANIAN, "--loop=uvloop"),
}
both_faces = pytest.mark.parametrize("path", ["/gated", "/sync-gated"])
#: Both servers are told of a prefix that a proxy takes away before them.
ROOTS = {"uvicorn-root-path": "/shop", "hypercorn-root-path": "/shop"}


@pytest.fixture(scope="module", params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def server(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with SERVERS[name](tmp_path_factory.mktemp(name)) as running:
        yield running


# Requests


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [None, b"", b"x", ALL_BYTES])
def test_method_and_body_arrive(server: Server, method: str, body: bytes | None) -> None:
    """Every method arrives, with any body or none."""
    reply = server.ask(method, "/echo/", body=body)

    assert 200 == reply.status
    if method == "HEAD":
        assert b"" == reply.body
        assert int(reply.get("content-length") or 0) > 100
    else:
        assert (method, (body or b"").hex()) == (reply.json()["method"], reply.json()["body"])


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/echo/plain", "/echo/plain"),
        ("/echo/%C3%A9%E2%82%AC", "/echo/é€"),
        ("/echo/a%2Fb%3Fc", "/echo/a/b?c"),
        ("/echo/%25%20+;=:@", "/echo/% +;=:@"),
        ("/echo/%ff", "/echo/\ufffd"),
    ],
)
def test_path_arrives(server: Server, name: str, target: str, path: str) -> None:
    """The handler sees the path decoded, and in the URL as it was sent."""
    seen = server.ask("GET", target).json()
    root = ROOTS.get(name, "")

    assert (path, root) == (seen["path"], seen["root_path"])
    assert f"http://localhost:{server.port}{root}{target}" == seen["url"]


def test_query_arrives_verbatim(server: Server) -> None:
    """The query is not decoded and encoded again on its way."""
    query = "a=1&a=%32&b=%C3%A9+x&c=%zz&d=/?:@!$'()*,;&e"
    seen = server.ask("GET", f"/echo/?{query}").json()

    assert query == seen["url"].partition("?")[2]
    assert [["a", "1"], ["a", "2"], ["b", "é x"]] == seen["query"][:3]


def test_headers_arrive(server: Server) -> None:
    """Header fields arrive, with octets beyond ASCII, repeated ones apart and in order."""
    fields = (("X-One", "é"), ("x-two", "a"), ("X-Two", "b"), ("Content-Type", "x/y"))
    seen = server.ask("POST", "/echo/", fields, b"x").json()["headers"]

    assert ["a", "b"] == [value for name, value in seen if name == "x-two"]
    assert ("é", "x/y", "1") == tuple(
        dict(seen)[name] for name in ("x-one", "content-type", "content-length")
    )


@pytest.mark.parametrize("size", [0, 1, 8192, 65_537, 1024 * 1024])
def test_body_arrives(server: Server, size: int) -> None:
    """A body of any size within the limit arrives as it was sent."""
    body = (ALL_BYTES * (size // 256 + 1))[:size]
    seen = server.ask("POST", "/echo/", body=body).json()

    assert body.hex() == seen["body"]


@pytest.mark.parametrize("sizes", [(1,), (3, 70_000, 1), (1000,) * 50])
def test_chunked_body_arrives(server: Server, sizes: tuple[int, ...]) -> None:
    """A body of unknown length arrives as one, whatever the chunks were."""
    chunks = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    head = (
        "POST /echo/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    with connect(server.port) as connection:
        connection.sendall(head.encode())
        for chunk in chunks:
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        connection.sendall(b"0\r\n\r\n")
        reply = read_reply(connection, "POST")

    assert b"".join(chunks).hex() == reply.json()["body"]


def test_oversized_body_is_refused_unread(server: Server) -> None:
    """A body over the limit is answered with 413 before it has been sent."""
    reply = server.ask("POST", "/echo/", (("Content-Length", str(1024 * 1024 + 1)),))

    assert (413, "urn:durable:content-too-large") == (reply.status, reply.json()["type"])


def test_expected_continue(server: Server) -> None:
    """A client that waits to be told to send its body is told so, or refused."""
    head = (
        "POST /echo/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    )
    with connect(server.port) as connection:
        connection.sendall(head.encode())
        assert b"HTTP/1.1 100 " == connection.recv(13, socket.MSG_PEEK)
        connection.sendall(b"body")
        assert b"body".hex() == read_reply(connection, "POST").json()["body"]


def test_cut_off_body_never_reaches_the_handler(server: Server) -> None:
    """A client that goes away within the body gets an error, or nothing."""
    head = b"POST /echo/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nshort"
    answer = exchange(server.port, head)

    assert b" 200 " not in answer.split(b"\r\n")[0]


def test_bad_host_is_refused(server: Server) -> None:
    """A Host that would change the path is answered with 400, by us or by the server."""
    with connect(server.port) as connection:
        connection.sendall(b"GET /echo/ HTTP/1.1\r\nHost: a/b\r\nConnection: close\r\n\r\n")
        assert 400 == read_reply(connection).status


# Responses


def test_repeated_and_binary_headers_leave(server: Server) -> None:
    """Repeated fields leave as such and in order."""
    reply = server.ask("GET", "/cookies")

    assert ["a=1", "b=2"] == reply.get_all("set-cookie")
    assert ("éü", "6") == (reply.get("x-own"), reply.get("content-length"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_binary_body_leaves(server: Server, method: str) -> None:
    """All octets leave as they are, with their number; to HEAD with the number only."""
    reply = server.ask(method, "/binary")

    assert (ALL_BYTES if method == "GET" else b"") == reply.body
    assert (200, "256") == (reply.status, reply.get("content-length"))


def test_no_content(server: Server) -> None:
    """204 has neither content nor a length of it."""
    reply = server.ask("DELETE", "/empty")

    assert (204, b"", None) == (reply.status, reply.body, reply.get("content-length"))


@pytest.mark.parametrize("path", ["/stream", "/sync-stream"])
def test_streamed_body_leaves(server: Server, path: str) -> None:
    """The chunks of an iterator arrive in order, from def and async def handlers alike."""
    reply = server.ask("GET", path)

    assert (200, b"".join(CHUNKS)) == (reply.status, reply.body)


def test_head_of_a_stream(server: Server) -> None:
    """The connection can be used on after the head of a streamed response."""
    with connect(server.port) as connection:
        for _ in range(2):
            head = "HEAD /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
            connection.sendall(head.encode())
            assert (200, b"") == (lambda reply: (reply.status, reply.body))(
                read_reply(connection, "HEAD")
            )


def test_torn_stream_is_seen_to_be_torn(server: Server) -> None:
    """A response that breaks off does not look like a whole one."""
    with server.send("/torn") as connection:
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200")
    assert not answer.endswith(b"0\r\n\r\n")


def test_errors_of_handlers(server: Server) -> None:
    """HTTPError becomes its response, any other exception a 500 problem without details."""
    refused, broken = server.ask("GET", "/refused"), server.ask("GET", "/broken")

    assert (418, "yes") == (refused.status, refused.get("x-own"))
    assert (500, "urn:durable:internal-error") == (broken.status, broken.json()["type"])
    assert b"ZeroDivision" not in broken.body


def test_handlers_leave_the_connection_alone(server: Server) -> None:
    """Fields that are the server's business are not a handler's to set."""
    reply = server.ask("GET", "/hop")

    assert (200, None) == (reply.status, reply.get("upgrade"))
    assert reply.get("connection") in ("close", None)


# Runs


def test_lifespan(server: Server) -> None:
    """The server has started the engine, and no request had to."""
    assert server.ask("GET", "/health").json()["started"]


def test_steps_run(server: Server) -> None:
    """A durable endpoint answers on the same connection, with its own status and headers."""
    reply = server.ask("GET", "/steps?n=21")

    assert (201, "yes", {"doubled": 42}) == (reply.status, reply.get("x-own"), reply.json())


def test_def_handlers_run_in_threads(server: Server) -> None:
    """A ``def`` handler is not on the event loop's thread."""
    reply = server.ask("GET", "/sync-steps?n=21")

    assert (201, {"doubled": 42, "main": False}) == (reply.status, reply.json())


@pytest.mark.parametrize(("method", "status"), [("GET", 302), ("POST", 303), ("DELETE", 303)])
def test_handoff_and_wait(server: Server, method: str, status: int) -> None:
    """A run that sleeps redirects its client to a URL that has the response, wherever mounted."""
    redirect = server.ask(method, "/nap?trip=T1")
    location = redirect.get("location") or ""
    assert (status, "no-store") == (redirect.status, redirect.get("cache-control"))
    assert location.startswith("?durable-run=")

    answers = [server.ask("GET", f"/nap{location}") for _ in range(2)]

    for reply in answers:
        assert (201, "x/y", ALL_BYTES) == (reply.status, reply.get("content-type"), reply.body)


def test_events_arrive(server: Server) -> None:
    """The events route is a route."""
    body = json.dumps({"name": "x/y", "data": {"a": 1}}).encode()
    reply = server.ask("POST", "/events", (("Content-Type", "application/json"),), body)

    assert (200, 1) == (reply.status, len(reply.json()["ids"]))


@both_faces
def test_client_that_leaves_in_a_step(server: Server, tmp_path: Path, path: str) -> None:
    """The run is handed off while the step is running, and finishes."""
    gate = tmp_path / "gate"
    connection = server.send(f"{path}?gate={gate}")
    until(lambda: Path(f"{gate}.reached").exists())
    assert [] == server.phase_of(f"GET {path}")[1:]
    connection.close()

    until(lambda: server.phase_of(f"GET {path}") == ["running"])
    gate.touch()
    until(lambda: server.phase_of(f"GET {path}") == ["completed"])


def test_client_that_leaves_in_a_stream(server: Server) -> None:
    """A stream is made only as fast as it is read, and closed when nobody reads it any more."""
    connection = server.send("/flood")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    connection.close()

    (produced,) = until(lambda: server.ask("GET", "/floods").json())
    assert produced < FLOOD / 2
    until(lambda: server.phase_of("GET /flood") == ["failed"])


def test_many_at_once(server: Server) -> None:
    """A hundred clients at the same time get their own answers."""
    with ThreadPoolExecutor(100) as clients:
        replies = list(clients.map(lambda n: server.ask("GET", f"/steps?n={n}"), range(100)))

    assert [{"doubled": 2 * n} for n in range(100)] == [reply.json() for reply in replies]


# The end


STOPPING: dict[str, Starter] = {
    "uvicorn": command(*UVICORN, "--timeout-graceful-shutdown=20"),
    "hypercorn": command(*HYPERCORN, "--graceful-timeout=20"),
    "granian": command(*GRANIAN, "--workers-kill-timeout=20"),
}


@both_faces
@pytest.mark.parametrize("start", STOPPING.values(), ids=STOPPING.keys())
def test_stop_with_a_step_in_flight(start: Starter, tmp_path: Path, path: str) -> None:
    """The client is redirected at once; the step ends, and the next process goes on after it."""
    gate, reached, store = tmp_path / "gate", tmp_path / "gate.reached", StoreFile(tmp_path / "db")
    with start(tmp_path) as server, server.send(f"{path}?gate={gate}") as connection:
        until(reached.exists)
        server.process.terminate()
        assert 302 == read_reply(connection).status
        assert ["async"] == list(store.runs().values())
        reached.unlink()
        gate.touch()
        server.process.wait(20)
        assert {"gate": "null"} == store.steps()

    with start(tmp_path):
        until(store.all_ended)
    assert ["completed"] == list(store.runs().values())
    assert not reached.exists()


@pytest.mark.parametrize("path", ["/told", "/sync-told"])
def test_event_streams_are_not_kept_back(server: Server, path: str, tmp_path: Path) -> None:
    """A chunk is with the client while its step still runs; the stream ends with the response."""
    gate, decoder, told = tmp_path / "gate", SSEDecoder(), list[str]()
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", f"{path}?gate={gate}", headers={"accept": "text/event-stream"})
    with closing(connection), connection.getresponse() as response:
        assert "text/event-stream" == response.getheader("content-type")
        while data := response.read1():
            told += [described(event) for event in decoder.feed(data)]
            if "a: first" in told:
                gate.touch()

    assert ["meta", "a: first", "a: second", "commit a", "redirect", "200: told"] == told
