"""What a run costs on our side under the Inngest engine, with a server that does nothing.

Each step is a checkpoint, and the end goes out with the last one: a run of n steps makes n calls
over HTTP. The same calls by the same client, without a handler, are the floor. The server runs in a
process of its own and answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

from durable_core import Durable, Request, endpoint_adapter, step
from durable_inngest import InngestEngine
from durable_inngest._http import Call, Connections, Timeouts

_TIMEOUTS = Timeouts(connect=5.0, idle=15.0, whole=30.0)
_BEGUN = json.dumps({"data": {"fn_id": "f", "app_id": "a", "token": "t", "realtime_token": "r"}})
#: To who asks for the state of a run: it has ended, so all of its ops were taken.
_GONE = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"
_ANSWER = f"HTTP/1.1 200 OK\r\ncontent-length: {len(_BEGUN)}\r\n\r\n{_BEGUN}".encode()


class _DoNothing(asyncio.Protocol):
    """Answers every complete request at once with the same bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) >= int(length or 0):
            self._data = b""
            self._transport.write(_ANSWER if head.startswith(b"POST") else _GONE)


def _serve(tell: Connection) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_DoNothing, "127.0.0.1", 0)
        tell.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def _timed(one: Callable[[], Awaitable[object]], count: int, at_a_time: int) -> list[float]:
    """Return the sorted seconds of the calls, ``at_a_time`` in parallel, then the total."""
    times: list[float] = []

    async def worker(number: int) -> None:
        for _ in range(number):
            began = perf_counter()
            await one()
            times.append(perf_counter() - began)

    began = perf_counter()
    await asyncio.gather(*(worker(count // at_a_time) for _ in range(at_a_time)))
    return [*sorted(times), perf_counter() - began]


async def _measure(url: str, rounds: int, count: int) -> list[dict[str, float]]:
    durable = Durable(
        id="bench",
        endpoint_adapter=endpoint_adapter,
        engine=InngestEngine(is_dev=True, base_url=url),
    )

    async def handler(request: Request) -> str:
        for number in range(int(request.query["n"])):
            await step.run(f"s{number}", _step)
        return "done"

    endpoint = durable.endpoint(handler)
    connections = Connections()
    document = {"run_id": "0" * 26, "steps": [{"id": "0" * 40}], "event": "x" * 400}
    body = json.dumps(document).encode()

    async def ours(steps: int) -> None:
        request = Request(method="GET", url=f"http://shop.example/a?n={steps}")
        response = await endpoint.handle_async(request)
        assert response.status == 200, response.body

    async def floor(steps: int) -> None:
        for _ in range(steps):
            call = Call(method="POST", url=f"{url}/v1/checkpoint", body=body, timeouts=_TIMEOUTS)
            await connections.exchange(call, 1 << 20)

    rows = []
    for steps in (1, 3):
        for at_a_time in (1, 16):
            row: dict[str, float] = {"steps": steps, "clients": at_a_time}
            for name, one in (("floor", floor), ("ours", ours)):
                taken = []
                for _ in range(rounds + 1):
                    times = await _timed(partial(one, steps), count, at_a_time)
                    taken.append((statistics.median(times[:-1]) * 1000, count / times[-1]))
                row[f"{name}_ms"] = min(ms for ms, _ in taken[1:])
                row[f"{name}_rate"] = max(rate for _, rate in taken[1:])
            rows.append(row)
    await connections.close()
    await durable.stop_async()
    return rows


async def _step() -> int:
    return 1


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    parser = argparse.ArgumentParser(prog="inngest", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--folder", type=Path, help="not used: nothing is stored here")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,))
    process.start()
    try:
        url = f"http://127.0.0.1:{here.recv()}"
        rows = asyncio.run(_measure(url, *((1, 320) if options.quick else (5, 1600))))
    finally:
        process.terminate()
        process.join()
    print("steps clients  floor ms  ours ms    floor/s   ours/s")
    for row in rows:
        times = f"{row['floor_ms']:9.2f} {row['ours_ms']:8.2f}"
        rates = f"{row['floor_rate']:10.0f} {row['ours_rate']:8.0f}"
        print(f"{row['steps']:5.0f} {row['clients']:7.0f} {times} {rates}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}), "utf-8")


if __name__ == "__main__":
    main()
