"""How many calls a request takes, how many files it passes, and how deep the handler lies.

A profile function (``sys.setprofile``) counts the requests of a handler that is called directly,
one after the other. No time is measured: with one version of Python, every run gives the same
figures.

- *all calls*: of functions written in Python or C, in all threads, as ``cProfile`` counts them. A
  generator or a coroutine that is resumed counts as a call.
- *library calls*: those of functions that are written in a file of ``durable_core``. What a
  ``dataclass`` generates is in no file.
- *files*: the files of ``durable_core`` that these functions are written in.
- *frames*: the frames of these functions on the stack when the handler is called. An ``async def``
  handler has a task of its own, so the frames of its caller are not on that stack.

The engine also has periodic work. For instance, a thread looks for due runs about 50 times a
second, and after that a request may have to read from the store again. Such work falls into one
request or another by chance. Each row shows the smallest number of calls that was counted often.
If a commit takes longer than a millisecond, another thread makes it, which takes more calls. So
the database is in a memory file system if the machine has one.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from urllib.parse import urljoin

import _subjects
from _inprocess import make_request
from _measure import arguments, machine, save_json, show, work_folder
from _subjects import Async, Subjects, Sync

import durable_core
from durable_core import Request, Response
from durable_core.sync import step

_HEAD = ("handler", "steps", "all calls", "library calls", "files", "frames")
_STEPS = (0, 1, 3, 10)
_MEMORY = Path("/dev/shm")
_ALIKE = 5  # counts of this many requests are no chance
_LIBRARY = str(Path(durable_core.__file__).parent)


@dataclass(frozen=True, slots=True, order=True)
class Calls:
    """What one request took."""

    all_calls: int
    library_calls: int
    files: int
    frames: int


class Probe:
    """A profile function that several threads may use at the same time."""

    def __init__(self) -> None:
        # Appending is atomic; None stands for a function written in C.
        self._called: list[CodeType | None] = []
        self._frames = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        """Note a call, except the one that ends the measurement."""
        if event == "call":
            self._called.append(frame.f_code)
            if _is_handler(frame.f_code):
                self._frames = sum(map(_is_library, _codes_of(frame)))
        elif event == "c_call" and arg is not sys.setprofile:
            self._called.append(None)

    def take(self) -> Calls:
        """Return the counts since the last call, and reset them."""
        called, self._called = self._called, []
        library = [code for code in called if code is not None and _is_library(code)]
        files = {code.co_filename for code in library}
        return Calls(len(called), len(library), len(files), self._frames)


def _is_library(code: CodeType) -> bool:
    return code.co_filename.startswith(_LIBRARY)


def _is_handler(code: CodeType) -> bool:
    return code.co_name == "handler" and code.co_filename == _subjects.__file__


def _codes_of(frame: FrameType | None) -> Iterator[CodeType]:
    """Yield the code of a frame, of its caller, and so on."""
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _let_scheduler_look(subjects: Subjects) -> None:
    """Start a run that the engine's thread must resume, and wait for its end.

    Until that thread has looked for other processes, a request reads more from the store.
    """

    @subjects.durable.endpoint(function_id="sleeper")
    def sleeper(request: Request) -> Response:
        step.sleep("short", 0.05)
        return Response()

    request = make_request()
    response = sleeper.handle(request)
    while response.status == 302:
        url = urljoin(request.url, response.headers["location"])
        response = sleeper.handle(Request(method="GET", url=url))
    _check(response)


def _counted(probe: Probe, handle: Sync, requests: int) -> Calls:
    """Return the counts of a request to a ``def`` handler, from this many or more."""
    taken: list[Calls] = []
    while len(taken) < requests or not _usual(taken):
        request = make_request()
        probe.take()
        sys.setprofile(probe)
        response = handle(request)
        sys.setprofile(None)
        taken.append(probe.take())
        _check(response)
    return min(_usual(taken))


async def _counted_async(probe: Probe, handle: Async, requests: int) -> Calls:
    """Return the counts of a request to an ``async def`` handler, from this many or more."""
    taken: list[Calls] = []
    while len(taken) < requests or not _usual(taken):
        request = make_request()
        probe.take()
        sys.setprofile(probe)
        response = await handle(request)
        sys.setprofile(None)
        taken.append(probe.take())
        _check(response)
    return min(_usual(taken))


def _usual(taken: list[Calls]) -> list[Calls]:
    """Return the counts that came too often to be chance."""
    return [calls for calls, times in Counter(taken).items() if times >= _ALIKE]


def _check(response: Response) -> None:
    if response.status != 200:
        raise AssertionError(f"the benchmark got {response.status}: {response.body!r}")


def _measure(folder: Path, requests: int) -> Iterator[dict[str, object]]:
    """Yield a row for each kind of handler and number of steps."""
    probe = Probe()
    threading.setprofile(probe)  # of the threads that the engine will start
    subjects = Subjects.in_folder(folder)
    _let_scheduler_look(subjects)
    for steps in _STEPS:
        calls = _counted(probe, subjects.sync("ours", steps), requests)
        yield {"handler": "def", "steps": steps, **asdict(calls)}
    with asyncio.Runner() as runner:
        for steps in _STEPS:
            handle = subjects.asynchronous("ours", steps)
            calls = runner.run(_counted_async(probe, handle, requests))
            yield {"handler": "async def", "steps": steps, **asdict(calls)}
        runner.run(subjects.durable.stop_async())
    subjects.close()


def main() -> None:
    """Count, print, and write the figures to a file if one was named."""
    options = arguments(__doc__).parse_args()
    parent = options.folder or (_MEMORY if _MEMORY.is_dir() else None)
    with work_folder(parent) as folder:
        facts = machine(folder)
        figures = list(_measure(folder, 30 if options.quick else 100))
    show("calls of one request", _HEAD, [list(figure.values()) for figure in figures])
    save_json(options.json, {"machine": facts, "figures": figures})


if __name__ == "__main__":
    main()
