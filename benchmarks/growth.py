"""The cost of a run of three steps in a store that holds no, 100,000 or 1,000,000 ended runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time, time_ns

from _inprocess import call_from_threads, make_request
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

from durable_core import Durable, Request, Response, endpoint_adapter
from durable_core.api.adapter import HTTPHandler
from durable_core.codec.records import dump_head, dump_request
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.run import Phase, Run
from durable_core.model.step import Memo, Op, OpKind
from durable_core.platform import make_ulid
from durable_core.ports import Checkpoint, StoredRequest, StoredResult
from durable_core.stores.sqlite import SQLiteStore
from durable_core.sync import step

_STEPS = ("reserve", "pay", "ship")
_BATCH = 500
_HOUR = 3_600_000
_HEAD = dump_head(Response.json(14))


def _handler(request: Request) -> int:
    return sum(step.run(name, len, name) for name in _STEPS)


def _ended_run(number: int, count: int) -> Checkpoint:
    """Return the write that stores a run that ended in the last hour, the oldest first."""
    now = time_ns() // 1_000_000 - _HOUR + _HOUR * number // count
    run = Run(
        id=make_ulid(now, os.urandom(10)),
        app="growth",
        endpoint_key="growth",
        function_id="GET /bench",
        phase=Phase.COMPLETED,
        retries=3,
        created_at=now,
    )
    head = dump_request(make_request(), stored_headers=frozenset())
    return Checkpoint(
        run_id=run.id,
        owner="filler",
        epoch=1,
        now=now,
        create=run,
        request=StoredRequest(head=head, body=b""),
        memos=tuple(_memo(place, name, now) for place, name in enumerate(_STEPS, 1)),
        state=run,
        result=StoredResult(phase=Phase.COMPLETED, head=_HEAD, body=b"14", ended_at=now),
    )


def _memo(place: int, name: str, now: int) -> Memo:
    op = Op(id=hash_step_id(name), name=name, kind=OpKind.RUN)
    return Memo(
        op=op, completion_no=place, ok=True, value="5", event_seq=0, attempts=1, ended_at=now
    )


def _filled(folder: Path, count: int) -> Durable[HTTPHandler]:
    """Return an application over a store with this many ended runs."""
    path = folder / f"{count}.db"
    store = SQLiteStore(path)
    store.open()
    began = perf_counter()
    for start in range(0, count, _BATCH):
        writes = [_ended_run(number, count) for number in range(start, start + _BATCH)]
        store.commit(writes, wait=5.0)
    store.close()
    size = path.stat().st_size / 2**20
    print(f"{count:,} runs: {size:,.0f} MiB, filled in {perf_counter() - began:.0f} s", flush=True)
    return Durable(id="growth", endpoint_adapter=endpoint_adapter, store=path)


def _turn(
    handler: Callable[[Request], Response], clients: int, seconds: float
) -> Callable[[], Burst]:
    """Return a turn; its ``busy`` is the share of a processor that this process needed."""

    def turn() -> Burst:
        began = process_time()
        burst = call_from_threads(handler, clients, seconds)
        return replace(burst, busy=(process_time() - began) / burst.seconds)

    return turn


def _row(size: int, bursts: Sequence[Burst], empty: Sequence[Burst]) -> list[object]:
    """Return the figures of a store with this many runs, beside those of the empty one."""
    p50, cpu = (lambda burst: burst.p50 * 1000), (lambda burst: burst.busy / burst.rate * 1000)
    return [
        f"{size:,}",
        median(map(p50, bursts)),
        ratio(bursts, empty, p50),
        median(map(cpu, bursts)),
        ratio(bursts, empty, cpu),
        median(burst.rate for burst in bursts),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--million", action="store_true", help="also a million runs; takes minutes")
    return parser


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = _parser().parse_args()
    # Short turns: what else the machine does changes little from one to the next.
    seconds, rounds = (0.2, 7) if options.quick else (0.25, 61)
    sizes = [0, 10_000] if options.quick else [0, 100_000]
    if options.million:
        sizes.append(1_000_000)
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        applications = {size: _filled(folder, size) for size in sizes}
        handlers = {
            size: durable.endpoint(function_id="growth")(_handler).handle
            for size, durable in applications.items()
        }
        rows: list[list[object]] = []
        for clients in (1, 16):
            turns = {
                str(size): _turn(handler, clients, seconds) for size, handler in handlers.items()
            }
            bursts = interleaved(turns, rounds)
            rows += [[clients, *_row(size, bursts[str(size)], bursts["0"])] for size in sizes]
        for durable in applications.values():
            durable.stop()
    head = ("clients", "ended runs", "p50 ms", "to empty", "CPU ms", "to empty", "runs/s")
    show("cost per run, and its ratio to that in the empty store", head, rows)
    save_json(options.json, {"machine": facts, "growth": rows})


if __name__ == "__main__":
    main()
