"""What it costs to continue a run that has 1,000 or 10,000 finished steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, time_ns

from _measure import arguments, machine, median, save_json, show, work_folder

from durable_core import Durable, Request, endpoint_adapter, step
from durable_core.api.adapter import HTTPHandler
from durable_core.codec.records import dump_request
from durable_core.engine.embedded import embedded
from durable_core.flow.env import Limits
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.run import Phase, Run
from durable_core.model.step import Memo, Op, OpKind
from durable_core.ports import Checkpoint, Release, StoredRequest
from durable_core.sync import step as sync_step

_PATIENCE = 120.0


class Replays:
    """Two endpoints that report how long their steps took, and runs that have finished steps.

    Args:
        folder: where the database goes.
        clock: measures the time in the handler.
        whole: measures the time from "it is due" to its end.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = perf_counter,
        whole: Callable[[], float] = perf_counter,
    ) -> None:
        self._clock = clock
        self._whole = whole
        self.durable: Durable[HTTPHandler] = Durable(
            id="replay",
            endpoint_adapter=endpoint_adapter,
            store=folder / "replay.db",
            limits=Limits(steps=20_000),
        )
        self._took = 0.0
        self._ended = threading.Event()
        self.durable.endpoint(function_id="def")(self._handler)
        self.durable.endpoint(function_id="async def")(self._handler_async)

    def _handler(self, request: Request) -> None:
        began = self._clock()
        for number in range(int(request.query["steps"])):
            sync_step.run(f"step-{number}", _never)
        self._end(began)

    async def _handler_async(self, request: Request) -> None:
        began = self._clock()
        for number in range(int(request.query["steps"])):
            await step.run(f"step-{number}", _never)
        self._end(began)

    def _end(self, began: float) -> None:
        self._took = self._clock() - began
        self._ended.set()

    def measure(self, key: str, steps: int) -> tuple[float, float]:
        """Return seconds from "it is due" to its end, and those spent in the handler."""
        self._ended.clear()
        engine = embedded(self.durable.engine)
        node = engine.worker
        assert node is not None
        engine.execute(_due_run(key, steps, node.owner))
        stored = self._whole()
        if not self._ended.wait(_PATIENCE):
            raise TimeoutError("the run did not end")
        return self._whole() - stored, self._took


def _never() -> int:
    raise AssertionError("a finished step ran again")


def _due_run(key: str, steps: int, owner: str) -> Checkpoint:
    """Return the write that stores a run with this many finished steps, which is due at once."""
    now = time_ns() // 1_000_000
    run_id = f"{now:026X}"
    request = Request(method="GET", url=f"http://bench/?steps={steps}")
    return Checkpoint(
        run_id=run_id,
        owner=owner,
        epoch=1,
        now=now,
        create=Run(
            id=run_id,
            app="replay",
            endpoint_key=key,
            function_id="GET /",
            phase=Phase.SUSPENDED,
            retries=3,
            created_at=now,
        ),
        request=StoredRequest(head=dump_request(request, stored_headers=frozenset()), body=b""),
        memos=tuple(_memo(number) for number in range(steps)),
        release=Release(due_at=now),
    )


def _memo(number: int) -> Memo:
    name = f"step-{number}"
    return Memo(
        op=Op(id=hash_step_id(name), name=name, kind=OpKind.RUN),
        completion_no=number + 1,
        ok=True,
        value=f'{{"number":{number}}}',
        event_seq=0,
        attempts=1,
        ended_at=1,
    )


def _row(replays: Replays, key: str, steps: int, times: int) -> list[object]:
    taken = [replays.measure(key, steps) for _ in range(times)]
    total, handler = median(each[0] for each in taken), median(each[1] for each in taken)
    return [key, steps, total * 1000, handler * 1000, handler / steps * 1e6]


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = arguments(__doc__).parse_args()
    times = 3 if options.quick else 9
    with work_folder(options.folder) as folder:
        facts = machine(folder)
        replays = Replays(folder)
        replays.durable.start()
        rows = [
            _row(replays, key, steps, times)
            for key in ("def", "async def")
            for steps in (100, 1_000, 10_000)
        ]
        replays.durable.stop()
    head = ("", "steps", "due to end ms", "in the handler ms", "us per step")
    show("replay", head, rows)
    save_json(options.json, {"machine": facts, "replay": rows})


if __name__ == "__main__":
    main()
