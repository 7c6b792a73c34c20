"""How long the dashboard takes for its first pages, with a thousand and with a million runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any
from urllib.parse import urlencode

from _measure import arguments, machine, median, save_json, show, work_folder

from durable_core import Durable, Request, Response
from durable_core.codec.records import dump_head, dump_request
from durable_core.model.run import Phase, Run
from durable_core.platform import make_ulid
from durable_core.ports import Checkpoint, Release, StoredRequest, StoredResult
from durable_core.stores.sqlite import SQLiteStore
from durable_dashboard import Dashboard

_BATCH = 1_000
_DAY = 86_400_000
_HEAD = dump_head(Response.json(14))
_REQUEST = StoredRequest(
    head=dump_request(Request(method="GET", url="http://host/order"), stored_headers=frozenset()),
    body=b"",
)
#: What is asked for: the list as it opens, filters of it, and the overview.
_ASKED: tuple[tuple[str, dict[str, str]], ...] = (
    ("runs", {}),
    ("runs", {"status": "failed"}),
    ("runs", {"status": "suspended"}),
    ("runs", {"endpoint": "endpoint 7"}),
    ("runs", {"endpoint": "endpoint 7", "status": "failed"}),
    ("runs", {"label": "customer=7"}),
    ("runs", {"key": "order 7"}),
    ("overview", {}),
)


def _run(number: int, count: int) -> Checkpoint:
    """Return the write that stores a run of the last day: of 1,000, 10 have failed and 2 wait."""
    now = time_ns() // 1_000_000 - _DAY + _DAY * number // count
    place = number % 1_000
    phase = Phase.FAILED if place < 10 else Phase.SUSPENDED if place < 12 else Phase.COMPLETED
    run = Run(
        id=make_ulid(now, os.urandom(10)),
        app="shop",
        endpoint_key=f"endpoint {number % 20}",
        function_id="GET /order",
        phase=phase,
        retries=3,
        created_at=now,
        key=f"order {number}",
        labels=(("customer", str(number % 1_000)),),
    )
    waits = phase is Phase.SUSPENDED
    return Checkpoint(
        run_id=run.id,
        owner="filler",
        epoch=1,
        now=now,
        create=run,
        request=_REQUEST,
        release=Release(due_at=now + 30 * _DAY) if waits else None,
        result=None
        if waits
        else StoredResult(phase=phase, head=_HEAD, body=b"14", ended_at=now + 5),
    )


def _filled(folder: Path, count: int) -> Durable[Any]:
    """Return an application over a store with so many runs."""
    path = folder / f"{count}.db"
    store = SQLiteStore(path)
    store.open()
    began = perf_counter()
    for start in range(0, count, _BATCH):
        store.commit([_run(number, count) for number in range(start, start + _BATCH)], wait=5.0)
    store.close()
    size = path.stat().st_size / 2**20
    print(f"{count:,} runs: {size:,.0f} MiB, filled in {perf_counter() - began:.0f} s", flush=True)
    return Durable(id="shop", store=path)


def _ask(dashboard: Dashboard, name: str, query: dict[str, str]) -> tuple[float, int]:
    """Return how long an answer takes, milliseconds, and how many runs are in it."""
    request = Request(
        method="GET", url=f"http://localhost/_api/{name}?{urlencode(query)}", client="127.0.0.1"
    )
    began = perf_counter()
    response = dashboard.handle(request)
    took = perf_counter() - began
    assert isinstance(response.body, bytes)
    document = json.loads(response.body)
    return took * 1000, len(document["runs"] if name == "runs" else document["endpoints"])


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = arguments(__doc__).parse_args()
    sizes = (1_000, 20_000) if options.quick else (1_000, 1_000_000)
    rows: list[list[object]] = []
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        dashboards = {size: Dashboard(_filled(folder, size)) for size in sizes}
        for name, query in _ASKED:
            row: list[object] = [f"{name} {urlencode(query)}".strip()]
            for size in sizes:
                first, found = _ask(dashboards[size], name, query)
                others = [_ask(dashboards[size], name, query)[0] for _ in range(10)]
                row += [found, first, median(others)]
            rows.append(row)
    head = ["page", *(f"{size:,}: {what}" for size in sizes for what in ("rows", "first ms", "ms"))]
    show("first pages", head, rows)
    save_json(options.json, {"machine": facts, "dashboard": rows})


if __name__ == "__main__":
    main()
