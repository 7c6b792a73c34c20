"""A program that uses a ``Durable`` before and after forks: ``python -m support.forking``.

It prints one JSON object: what the parent and each child got.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback

from durable_core import Request
from durable_core.engine.embedded import embedded
from support.crash_app import application, durable

__all__ = ["main"]

_CHILDREN = 4
_EACH = 5


def _ask(target: str) -> int:
    """Return the final status of a request, after a handoff too."""
    handler = application.endpoint
    response = handler.handle(Request(method="GET", url=f"http://localhost{target}"))
    path = target.partition("?")[0]
    while response.status in (302, 303):
        url = f"http://localhost{path}{response.headers['location']}"
        response = handler.handle(Request(method="GET", url=url))
    return response.status


def _work(name: str) -> list[int]:
    """Return the statuses of a few requests of all kinds."""
    kinds = ("sync/steps", "async/steps", "sync/nap", "async/nap", "sync/retry")
    return [
        _ask(f"/{kind}?trip={name}-{number}&seconds=0.02&failures=1")
        for number, kind in enumerate(kinds[:_EACH])
    ]


def _child(name: str, write_end: int, graceful: bool) -> None:
    """Work as a child does, and end: by ``os._exit``, or after stopping."""
    try:
        statuses = _work(name)
        if graceful:
            durable.stop()
        os.write(write_end, json.dumps(statuses).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _fork(number: int) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _child(f"child{number}", write_end, graceful=number % 2 == 0)
    os.close(write_end)
    return pid, read_end


def main() -> None:
    """Work, fork while threads work too, and work on."""
    durable.start()
    report: dict[str, object] = {"before": _work("before")}
    meanwhile: dict[str, list[int]] = {}
    threads = [
        threading.Thread(target=lambda n=n: meanwhile.update({str(n): _work(f"thread{n}")}))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    children = [_fork(number) for number in range(_CHILDREN)]
    outcomes = []
    for pid, read_end in children:
        with os.fdopen(read_end) as pipe:
            outcomes.append(json.loads(pipe.read() or "null"))
        os.waitpid(pid, 0)
    for thread in threads:
        thread.join()
    report.update(children=outcomes, threads=list(meanwhile.values()), after=_work("after"))
    report.update(pid=os.getpid(), registered=os.getpid() in _registered())
    durable.stop()
    print(json.dumps(report))


def _registered() -> set[int]:
    return {peer.pid for peer in embedded(durable.engine).store.workers()}


if __name__ == "__main__":
    main()
