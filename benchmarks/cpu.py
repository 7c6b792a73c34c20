"""How much processor time a request and a replayed step take, whatever else the machine does.

Elapsed times need a quiet machine. The time that the process itself spends on a processor moves
far less with the load of others, so two versions of the library can be compared on a busy one:
run this in a checkout of each, in turns, and compare the figures.

Handlers are called directly, from threads (``def``) or tasks (``async def``), and those of the
floor in turns with ours. The time is that of all threads of the process, the commits included. The
database is in a memory file system if the machine has one, because a forced write takes no
processor time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from time import process_time, thread_time

from _inprocess import call_from_tasks, call_from_threads
from _measure import (
    Burst,
    arguments,
    interleaved,
    machine,
    median,
    quantile,
    save_json,
    show,
    work_folder,
)
from _subjects import Async, Subjects
from replay import Replays

_MEMORY = Path("/dev/shm")
_NAMES = ("floor", "ours")
_STEPS = (1, 3, 10)
_REPLAYED = 1_000


def _requests(subjects: Subjects, seconds: float, rounds: int) -> Iterator[list[object]]:
    """Yield a row for each kind of handler, number of steps and of clients."""
    for steps, clients in product(_STEPS, (1, 16)):
        calls = {
            name: partial(call_from_threads, subjects.sync(name, steps), clients, seconds)
            for name in _NAMES
        }
        yield ["def", steps, clients, *_compare(calls, rounds)]
    with asyncio.Runner() as runner:
        for steps, clients in product(_STEPS, (1, 16, 64)):
            calls = {
                name: partial(_run, runner, subjects.asynchronous(name, steps), clients, seconds)
                for name in _NAMES
            }
            yield ["async def", steps, clients, *_compare(calls, rounds)]
        runner.run(subjects.durable.stop_async())


def _run(runner: asyncio.Runner, handle: Async, clients: int, seconds: float) -> Burst:
    return runner.run(call_from_tasks(handle, clients, seconds))


def _compare(calls: Mapping[str, Callable[[], Burst]], rounds: int) -> tuple[float, float, float]:
    """Return the processor time of a request of the floor and of ours, and their ratio.

    Turns are short and many. Of each subject the turn counts that one in ten takes less than: in
    the others, what else runs on the machine has the caches of the processor. In microseconds.
    """

    def timed(call: Callable[[], Burst]) -> Burst:
        began = process_time()
        latencies = call().latencies
        return Burst(latencies, process_time() - began)

    turns = interleaved({name: partial(timed, call) for name, call in calls.items()}, rounds)
    floor, ours = (quantile([1e6 / each.rate for each in turns[name]], 0.1) for name in _NAMES)
    return floor, ours, ours / floor


def _replays(folder: Path, rounds: int) -> Iterator[list[object]]:
    """Yield a row for each kind of handler."""
    replays = Replays(folder, clock=thread_time, whole=process_time)
    replays.durable.start()
    for kind in ("def", "async def"):
        taken = [replays.measure(kind, _REPLAYED) for _ in range(1 + rounds)]
        # Of the whole the median: a replay may begin before the clock is read.
        whole, handler = median(each[0] for each in taken), min(each[1] for each in taken)
        yield [kind, _REPLAYED, whole / _REPLAYED * 1e6, handler / _REPLAYED * 1e6]
    replays.durable.stop()


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = arguments(__doc__).parse_args()
    seconds, rounds = (0.03, 10) if options.quick else (0.05, 60)
    parent = options.folder or (_MEMORY if _MEMORY.is_dir() else None)
    with work_folder(parent) as folder:
        facts = machine(folder)
        subjects = Subjects.in_folder(folder)
        requests = list(_requests(subjects, seconds, rounds))
        subjects.close()
        replays = list(_replays(folder, rounds))
    of_requests = ("handler", "steps", "clients", "floor us", "ours us", "o/f")
    show("processor time of a request", of_requests, requests)
    of_replays = ("handler", "steps", "us, with claim and load", "us, in the handler")
    show("processor time of a replayed step", of_replays, replays)
    save_json(options.json, {"machine": facts, "requests": requests, "replays": replays})


if __name__ == "__main__":
    main()
