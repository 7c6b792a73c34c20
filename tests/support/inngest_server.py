"""The server side of the Inngest protocol, on real sockets, for tests; it can be made to fail."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import h11

from durable_inngest._api import NO_RUN
from support.inngest_runs import Answer, Call, Run, Runs

__all__ = ["Fault", "InngestServer", "Seen", "fetch", "inngest_server"]

T = TypeVar("T")
_MOST_TEE = 1_024_000


@dataclass
class Seen:
    """A request that the server got."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose path matches.

    ``kind`` is a status, ``"drop"`` (the connection ends before the work is done), ``"lose"`` (it
    ends after it), or ``"slow"``: for ``seconds``, or until ``gate`` is set.
    """

    path: str
    kind: str | int
    times: int = 1
    seconds: float = 0.2
    gate: threading.Event | None = None


@dataclass
class _Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class InngestServer:
    """A server. Its methods may be called from any thread.

    Args:
        signing_key: signs calls, and is asked for as bearer token; None for a development server.
        retry_interval: seconds before a further attempt.
        poll: seconds between looks for a run's output.
        does_nothing: answer checkpoints, and never call anybody.
        begins_once: refuse to begin a run that it has.
        makes_functions_in: seconds until it has a function that it has not seen before; what it is
            told of the function's runs until then, after their beginning, is lost.
        stores_output_in: seconds from the end of a run until its output is there.
    """

    def __init__(
        self,
        *,
        signing_key: str | None = None,
        retry_interval: float = 0.02,
        poll: float = 0.02,
        does_nothing: bool = False,
        begins_once: bool = False,
        makes_functions_in: float = 0.0,
        stores_output_in: float = 0.0,
    ) -> None:
        self._makes_functions_in = makes_functions_in
        self._stores_output_in = stores_output_in
        self._functions: dict[str, float] = {}
        self._begins_once = begins_once
        self.signing_key = signing_key
        self.url = ""
        #: How many connections there have been, how often it was asked whether it is there, and
        #: what a wrong key is answered.
        self.accepted = 0
        self.asked = 0
        self.unauthorized = 401
        self.seen: list[Seen] = []
        self.calls: list[tuple[Call, Answer | None]] = []
        self.faults: list[Fault] = []
        #: Where an endpoint is now, by the origin that it goes by; None while it is nowhere.
        self.hosts: dict[str, str | None] = {}
        #: What services answer that are nowhere, JSON, by their URLs.
        self.services: dict[str, object] = {}
        #: Called before each call of the endpoint; what it returns is how often it is made.
        self.repeat: Callable[[Call], int] = lambda call: 1
        self._poll = poll
        self._listening: dict[str, list[asyncio.Queue[bytes]]] = {}
        self._does_nothing = does_nothing
        self._runs = Runs(self._call_endpoint, self._ask_service, retry_interval)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    # -- for tests --------------------------------------------------------------------------

    @property
    def runs(self) -> dict[str, Run]:
        return self._runs.runs

    @property
    def functions(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[object]]]:
        """What other applications have, by the server's names; they run on its own loop."""
        return self._runs.functions

    @property
    def run(self) -> Run:
        """The only run."""
        [run] = self.runs.values()
        return run

    def paths(self) -> list[str]:
        """Return what was asked for, without the output of runs."""
        shown = [re.sub(r"[0-9A-Z]{26}", "RUN", f"{s.method} {s.path}") for s in self.seen]
        return [path for path in shown if not path.endswith("/output")]

    @property
    def is_busy(self) -> bool:
        """Whether an endpoint is being called, or about to be."""

        async def look() -> bool:
            return self._runs.busy > 0

        return self._do(look())

    @property
    def is_followed(self) -> bool:
        """Whether somebody listens to a stream."""
        return bool(self._listening)

    def send(self, *events: dict[str, Any]) -> None:
        self._do(self._send(events))

    async def _send(self, events: tuple[dict[str, Any], ...]) -> None:
        for event in events:
            self._runs.send(event)

    def call(self, run: Run, **fields: Any) -> None:
        """Call the endpoint once more, out of order."""

        async def later() -> None:
            self._runs.later(0, Call(run, **fields))

        self._do(later())

    def cancel(self, run: Run) -> None:
        """End a run without an output, as somebody who cancels it on the server's pages."""

        async def end() -> None:
            self._runs.end(run, "Cancelled", None)

        self._do(end())

    def fail(self, run: Run, output: bytes) -> None:
        """End a run with an error of the server's own."""

        async def end() -> None:
            self._runs.end(run, "Failed", output)

        self._do(end())

    def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                histories = [run.history for run in self.runs.values()]
                raise TimeoutError(f"it did not come to that: {histories}; {self.paths()}")
            time.sleep(0.002)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        ready = threading.Event()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            self._server = self._loop.run_until_complete(
                asyncio.start_server(self._connected, "127.0.0.1", 0)
            )
            port = self._server.sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            ready.set()
            self._loop.run_forever()
            self._loop.close()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        ready.wait(10)

    def stop(self) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._runs.stop()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # -- HTTP -------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.accepted += 1
        try:
            await self._serve(reader, writer)
        except (ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            seen = await _read_request(connection, reader, self._passed_on)
            if seen is None:
                return
            if seen.path == "/v1/realtime/sse":
                self.seen.append(seen)
                await self._relay(connection, writer, seen.query["token"].removeprefix("rt."))
                return
            reply = await self._faulty(seen)
            if reply is None:
                return
            headers = {"content-length": str(len(reply.body)), "vary": "Origin", **reply.headers}
            head = h11.Response(status_code=reply.status, headers=list(headers.items()))
            body = b"" if seen.method == "HEAD" else reply.body
            out = connection.send(head) + (connection.send(h11.Data(body)) or b"")
            writer.write(out + (connection.send(h11.EndOfMessage()) or b""))
            await writer.drain()
            if connection.our_state is not h11.DONE:
                return
            connection.start_next_cycle()

    def _passed_on(self, seen: Seen, data: bytes) -> None:
        """Give what a post has brought to all who listen now; nothing is kept."""
        if seen.path == "/v1/realtime/publish/tee":
            for queue in self._listening.get(seen.query["channel"], ()):
                queue.put_nowait(data)

    async def _relay(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, run_id: str
    ) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._listening.setdefault(run_id, []).append(queue)
        head = h11.Response(status_code=200, headers=[("content-type", "text/event-stream")])
        writer.write(connection.send(head))
        while True:  # it never ends by itself
            writer.write(connection.send(h11.Data(await queue.get())) or b"")
            await writer.drain()

    async def _faulty(self, seen: Seen) -> _Reply | None:
        if seen.path == f"/v0/runs/{NO_RUN}/actions":  # which only asks whether it is there
            self.asked += 1
        else:
            self.seen.append(seen)
        for fault in self.faults:
            if fault.times > 0 and re.fullmatch(fault.path, seen.path):
                fault.times -= 1
                if fault.kind == "slow" and fault.gate is not None:
                    while not fault.gate.is_set():
                        await asyncio.sleep(0.005)
                elif fault.kind == "slow":
                    await asyncio.sleep(fault.seconds)
                elif fault.kind == "lose":
                    await self._answer(seen)
                    return None
                elif fault.kind == "drop":
                    return None
                else:
                    return _Reply(int(fault.kind), b'{"error":"a fault","data":null}')
                break
        return await self._answer(seen)

    async def _answer(self, seen: Seen) -> _Reply:
        guarded = ("/v1/checkpoint", "/v0/", "/v1/realtime/publish", "/v1/signals")
        if seen.path.startswith(guarded) and not self._may(seen):
            return _Reply(self.unauthorized, b"Authentication failed")
        if seen.path == "/v1/checkpoint":
            return self._begin(seen)
        if found := re.fullmatch(r"/v1/checkpoint/(\w+)/steps", seen.path):
            return self._go_on(seen)
        if found := re.fullmatch(r"/v0/runs/(\w+)/(batch|actions)", seen.path):
            return self._state(found[1], found[2])
        if re.fullmatch(r"/v1/http/runs/\w+/output", seen.path):
            return await self._output(seen.query.get("token", ""))
        if seen.path == "/v1/realtime/publish/tee":
            # It was passed on while it came, as far as the limit goes.
            return _Reply(200 if len(seen.body) <= _MOST_TEE else 500)
        if seen.path.startswith("/e/"):
            ids = [self._runs.send(event) for event in seen.json]
            return _json({"ids": ids, "status": 200})
        if seen.path == "/v1/signals":
            run_id = self._runs.signal(seen.json["signal"], seen.json["data"])
            return _Reply(404) if run_id is None else _json({"data": {"run_id": run_id}})
        return _Reply(404)

    # -- the API ----------------------------------------------------------------------------

    def _may(self, seen: Seen) -> bool:
        if self.signing_key is None:
            return True
        given = seen.headers.get("authorization", "").removeprefix("Bearer ")
        rest = self.signing_key.rpartition("-")[2]
        hashed = hashlib.sha256(bytes.fromhex(rest)).hexdigest()
        return given.rpartition("-")[2] == hashed

    def _begin(self, seen: Seen) -> _Reply:
        document = seen.json
        try:
            _check_event(document["event"])
        except ValueError:
            return _json({"error": "Invalid request body", "data": None, "status": 400}, 400)
        run_id = document["run_id"]
        if self._begins_once and run_id in self.runs:
            return _json({"error": "Run already exists", "data": None, "status": 409}, 409)
        if not self._does_nothing:
            run = self._runs.begin(run_id, document["event"], document["retries"])
            known_at = self._loop.time() + self._makes_functions_in
            self._functions.setdefault(_function_of(run), known_at)
            try:
                self._runs.checkpoint(run, document["steps"])
            except RuntimeError:
                return _Reply(500)
        ids = {"fn_id": "f-1", "app_id": "a-1", "run_id": run_id}
        return _json({"data": {**ids, "token": f"jwt.{run_id}", "realtime_token": f"rt.{run_id}"}})

    def _go_on(self, seen: Seen) -> _Reply:
        document = seen.json
        run = self.runs.get(document["run_id"])
        if run is not None and self._functions[_function_of(run)] > self._loop.time():
            run.history.append("lost a checkpoint")
        elif run is not None and not run.ended:
            try:
                self._runs.checkpoint(run, document["steps"])
            except RuntimeError:
                return _Reply(500)
        return _Reply(200)

    def _state(self, run_id: str, part: str) -> _Reply:
        run = self.runs.get(run_id)
        if run is None or run.ended:
            return _json({"error": "runtime state is no longer available", "status": 410}, 410)
        if part == "batch":
            return _json([run.event])
        return _json(_as_kept(run.memos))

    async def _output(self, token: str) -> _Reply:
        run = self.runs.get(token.removeprefix("jwt."))
        if run is None or not token.startswith("jwt."):
            text = "Unable to find run with auth token"
            return _json({"error": text, "data": None, "status": 401}, 401)
        while not run.ended:
            await asyncio.sleep(self._poll)
        if self._loop.time() < run.ended_at + self._stores_output_in:
            return _Reply(200, b"", {"content-type": "application/json"})
        try:
            data = json.loads(run.output or b"").get("data")
            status = int(data["status"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return _Reply(200, run.output or b"", {"content-type": "application/json"})
        return _Reply(status, data["body"].encode(), data["headers"])

    # -- calling others ---------------------------------------------------------------------

    async def _ask_service(
        self, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> Answer | None:
        if url in self.services:
            return Answer(200, {}, json.dumps(self.services[url]).encode())
        return await fetch(method, url, headers, body)

    async def _call_endpoint(self, call: Call) -> Answer | None:
        answers = [self._once(call) for _ in range(self.repeat(call))]
        answer: Answer | None = None
        for coming in answers:
            answer = await coming
            self.calls.append((call, answer))
        return answer

    async def _once(self, call: Call) -> Answer | None:
        data = call.run.event["data"]
        origin = data["domain"]
        while self.hosts.get(origin, origin) is None:
            await asyncio.sleep(0.005)
        url = f"{self.hosts.get(origin, origin)}{data['path']}"
        if data["query_params"]:
            url += f"?{data['query_params']}"
        body = _body_of(data)
        headers = {
            "x-inngest-signature": self._signature(body),
            "x-run-id": call.run.id,
            "x-inngest-req-version": "2",
            "x-inngest-generation-id": str(call.generation),
            "content-type": data["content_type"] or "application/json",
            "user-agent": "Inngest",
            "connection": "close",
        }
        if call.run.force_plan:
            headers["x-inngest-force-step-plan"] = "true"
        if call.target:
            headers["x-inngest-step-id"] = call.target
        return await fetch(data["method"], url, headers, body)

    def _signature(self, body: bytes) -> str:
        if self.signing_key is None:
            return ""
        at = str(int(time.time()))
        key = self.signing_key.rpartition("-")[2].encode()
        return f"t={at}&s={hmac.digest(key, body + at.encode(), 'sha256').hex()}"


def _function_of(run: Run) -> str:
    data = run.event["data"]
    return f"{data['domain']} {data['fn'] or data['method'] + ' ' + data['path']}"


def _as_kept(value: object) -> Any:
    """Return JSON as it comes back from the server: numbers are doubles, keys are sorted."""
    match value:
        case dict():
            return {_as_kept(key): _as_kept(value[key]) for key in sorted(value)}
        case list():
            return [_as_kept(item) for item in value]
        case str():
            return re.sub("[\ud800-\udfff]", "\ufffd", value)
        case bool() | None:
            return value
        case int() | float():
            number = Decimal(repr(float(value)))
            is_whole = number == number.to_integral_value() and abs(number) < 10**21
            return int(number) if is_whole else float(value)
        case _:
            raise TypeError(f"no JSON: {value!r}")


def _check_event(event: dict[str, Any]) -> None:
    _body_of(event["data"])


def _body_of(data: dict[str, Any]) -> bytes:
    return base64.b64decode(data["body"], validate=True)


def _json(value: object, status: int = 200) -> _Reply:
    return _Reply(status, json.dumps(value).encode(), {"content-type": "application/json"})


async def _read_request(
    connection: h11.Connection,
    reader: asyncio.StreamReader,
    coming: Callable[[Seen, bytes], None],
) -> Seen | None:
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            assert head is not None
            coming(_seen(head, b""), bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            return _seen(head, body)
        else:
            return None


def _seen(head: h11.Request, body: bytes) -> Seen:
    parts = urlsplit(head.target.decode())
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    headers = {name.decode(): value.decode() for name, value in head.headers}
    return Seen(head.method.decode(), parts.path, query, headers, body)


async def fetch(method: str, url: str, headers: dict[str, str], body: bytes = b"") -> Answer | None:
    """Make one request on a connection of its own; None if there is no whole answer."""
    parts = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return None
    try:
        connection = h11.Connection(h11.CLIENT)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = {"host": parts.netloc, "content-length": str(len(body)), **headers}
        request = h11.Request(method=method, target=target, headers=list(fields.items()))
        out = connection.send(request) or b""
        out += connection.send(h11.Data(body)) or b""
        writer.write(out + (connection.send(h11.EndOfMessage()) or b""))
        head: h11.Response | None = None
        content = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                shown = {name.decode(): value.decode() for name, value in head.headers}
                return Answer(head.status_code, shown, content)
            else:
                return None
    except (ConnectionError, h11.RemoteProtocolError):
        return None
    finally:
        writer.close()


@contextmanager
def inngest_server(**options: Any) -> Iterator[InngestServer]:
    """Serve until the end of the context."""
    server = InngestServer(**options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
