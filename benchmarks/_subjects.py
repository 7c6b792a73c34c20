"""What is measured: one endpoint of n steps, written three times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from _floor import Floor

from durable_core import Durable, Request, Response, endpoint_adapter, step
from durable_core.api.adapter import HTTPHandler
from durable_core.ports import Store
from durable_core.sync import step as sync_step

__all__ = ["NAMES", "Async", "Subjects", "Sync"]

#: ``bare`` makes nothing durable, ``floor`` is written by hand, ``ours`` is this library.
NAMES = ("bare", "floor", "ours")

_IDS = tuple(f"step-{number}" for number in range(10_000))

Sync = Callable[[Request], Response]
Async = Callable[[Request], Awaitable[Response]]


def _work(number: int) -> dict[str, int]:
    return {"number": number}


async def _work_async(number: int) -> dict[str, int]:
    return {"number": number}


@dataclass(frozen=True, slots=True)
class Subjects:
    """Makes the three handlers over files of their own in a folder."""

    durable: Durable[HTTPHandler]
    floor: Floor

    @classmethod
    def in_folder(cls, folder: Path, store: Store | None = None) -> Subjects:
        """Make the stores in the folder; ours is in ``ours.db`` unless it is given."""
        durable = Durable(
            id="bench", endpoint_adapter=endpoint_adapter, store=store or folder / "ours.db"
        )
        return cls(durable, Floor(folder / "floor.db"))

    def close(self) -> None:
        """Stop the engine and close the files."""
        self.durable.stop()
        self.floor.close()

    def sync(self, name: str, steps: int) -> Sync:
        """Return the ``def`` handler."""
        if name == "bare":
            return lambda request: Response.json(_sum([_work(each) for each in range(steps)]))
        if name == "floor":
            return _floor_sync(self.floor, steps)
        return self.endpoint(steps).handle

    def asynchronous(self, name: str, steps: int) -> Async:
        """Return the ``async def`` handler."""
        if name == "bare":
            return _bare_async(steps)
        if name == "floor":
            return _floor_async(self.floor, steps)
        return self.endpoint_async(steps).handle_async

    def endpoint(self, steps: int) -> HTTPHandler:
        """Return our endpoint over a ``def`` handler."""

        def handler(request: Request) -> Response:
            done = [sync_step.run(_IDS[each], _work, each) for each in range(steps)]
            return Response.json(_sum(done))

        return self.durable.endpoint(name=f"sync-{steps}")(_named(handler, f"sync_{steps}"))

    def endpoint_async(self, steps: int) -> HTTPHandler:
        """Return our endpoint over an ``async def`` handler."""

        async def handler(request: Request) -> Response:
            done = [await step.run(_IDS[each], _work_async, each) for each in range(steps)]
            return Response.json(_sum(done))

        return self.durable.endpoint(name=f"async-{steps}")(_named(handler, f"async_{steps}"))


def _named(handler: Callable[[Request], object], name: str) -> Callable[[Request], object]:
    handler.__qualname__ = name
    return handler


def _sum(done: list[dict[str, int]]) -> dict[str, int]:
    return {"sum": sum(each["number"] for each in done)}


def _bare_async(steps: int) -> Async:
    async def handler(request: Request) -> Response:
        return Response.json(_sum([await _work_async(each) for each in range(steps)]))

    return handler


def _floor_sync(floor: Floor, steps: int) -> Sync:
    def handler(request: Request) -> Response:
        run_id, done = floor.start("floor"), []
        for number in range(steps - 1):
            done.append(_work(number))
            floor.step(run_id, number, done[-1], request=None if number else request)
        return _last_floor_step(floor, run_id, request, done, _work(steps - 1)) if steps else _EMPTY

    return handler


def _floor_async(floor: Floor, steps: int) -> Async:
    async def handler(request: Request) -> Response:
        run_id, done = floor.start("floor"), []
        response = _EMPTY
        for number in range(steps):
            done.append(await _work_async(number))
            is_last = number == steps - 1
            if is_last:
                response = Response.json(_sum(done))
            await floor.step_async(
                run_id,
                number,
                done[-1],
                request=None if number else request,
                response=response if is_last else None,
            )
        return response

    return handler


_EMPTY = Response.json({"sum": 0})


def _last_floor_step(
    floor: Floor, run_id: str, request: Request, done: list[dict[str, int]], last: dict[str, int]
) -> Response:
    number = len(done)
    response = Response.json(_sum([*done, last]))
    floor.step(run_id, number, last, request=None if number else request, response=response)
    return response
