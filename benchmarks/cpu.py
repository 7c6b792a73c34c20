"""How much processor time a request and a replayed step take, whatever else the machine does.

Elapsed times need a quiet machine. The time that the process itself spends on a processor moves
far less with the load of others, so two versions of the library can be compared on a busy one:
run this in a checkout of each, in turns, and compare the smallest figures.

Handlers are called directly, from threads (``def``) or tasks (``async def``). The time is that of
all threads of the process, the commits included. The database is in a memory file system if the
machine has one, because a forced write takes no processor time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import process_time, thread_time

from _inprocess import call_from_tasks, call_from_threads
from _measure import Burst, arguments, machine, save_json, show, work_folder
from _subjects import Async, Subjects
from replay import Replays

_MEMORY = Path("/dev/shm")
_STEPS = (0, 1, 3, 10)
_REPLAYED = 1_000


def _requests(subjects: Subjects, seconds: float, rounds: int) -> Iterator[list[object]]:
    """Yield a row for each kind of handler, number of steps and of clients."""
    for steps in _STEPS:
        handle = subjects.sync("ours", steps)
        for clients in (1, 16):
            call = partial(call_from_threads, handle, clients, seconds)
            yield ["def", steps, clients, _least_us(call, rounds)]
    with asyncio.Runner() as runner:
        for steps in _STEPS:
            handle_async = subjects.asynchronous("ours", steps)
            for clients in (1, 16, 64):
                call = partial(_run, runner, handle_async, clients, seconds)
                yield ["async def", steps, clients, _least_us(call, rounds)]
        runner.run(subjects.durable.stop_async())


def _run(runner: asyncio.Runner, handle: Async, clients: int, seconds: float) -> Burst:
    return runner.run(call_from_tasks(handle, clients, seconds))


def _least_us(call: Callable[[], Burst], rounds: int) -> float:
    """Return the least processor time of a request, microseconds. A first turn is discarded."""
    call()
    spent = []
    for _ in range(rounds):
        began = process_time()
        requests = len(call().latencies)
        spent.append((process_time() - began) / requests)
    return min(spent) * 1e6


def _replays(folder: Path, rounds: int) -> Iterator[list[object]]:
    """Yield a row for each kind of handler."""
    replays = Replays(folder, clock=thread_time)
    replays.durable.start()
    for kind in ("def", "async def"):
        spent = [replays.measure(kind, _REPLAYED)[1] for _ in range(1 + rounds)]
        yield [kind, _REPLAYED, min(spent) / _REPLAYED * 1e6]
    replays.durable.stop()


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = arguments(__doc__).parse_args()
    seconds, rounds = (0.1, 5) if options.quick else (0.2, 15)
    parent = options.folder or (_MEMORY if _MEMORY.is_dir() else None)
    with work_folder(parent) as folder:
        facts = machine(folder)
        subjects = Subjects.in_folder(folder)
        requests = list(_requests(subjects, seconds, rounds))
        subjects.close()
        replays = list(_replays(folder, rounds))
    show("processor time of a request", ("handler", "steps", "clients", "us"), requests)
    show("processor time of a replayed step", ("handler", "steps", "us"), replays)
    save_json(options.json, {"machine": facts, "requests": requests, "replays": replays})


if __name__ == "__main__":
    main()
