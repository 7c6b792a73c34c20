"""The pool of daemon threads."""

from __future__ import annotations

import threading

import pytest

from durable_core.runners.thread_pool import DaemonThreadPool

PATIENCE = 10.0


def test_runs_calls_in_daemon_threads() -> None:
    """A call's value and error come through its future; the threads are daemons."""
    pool = DaemonThreadPool(2, "test")

    def fails() -> None:
        raise ValueError("x")

    here = pool.submit(threading.current_thread).result(PATIENCE)
    assert here.daemon
    assert here.name.startswith("test-")
    with pytest.raises(ValueError, match="x"):
        pool.submit(fails).result(PATIENCE)
    with pytest.raises(KeyboardInterrupt):
        pool.submit(_interrupt).result(PATIENCE)
    assert 7 == pool.submit(lambda n: n, 7).result(PATIENCE)
    pool.shutdown()


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_size() -> None:
    """So many calls run at once, and no more; idle threads are used again."""
    pool = DaemonThreadPool(3, "test")
    inside, leave = threading.Semaphore(0), threading.Semaphore(0)
    names: set[str] = set()

    def work() -> None:
        names.add(threading.current_thread().name)
        inside.release()
        assert leave.acquire(timeout=PATIENCE)

    futures = [pool.submit(work) for _ in range(6)]
    for _ in range(3):
        assert inside.acquire(timeout=PATIENCE)
    assert not inside.acquire(blocking=False)
    for _ in range(6):
        leave.release()
    for future in futures:
        future.result(PATIENCE)
    assert len(names) == 3
    pool.shutdown()


def test_shutdown() -> None:
    """What is queued is done, unless it is to be cancelled; nothing more is taken."""
    pool = DaemonThreadPool(1, "test")
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    first = pool.submit(work)
    assert entered.wait(PATIENCE)
    queued = pool.submit(int)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="stopped"):
        pool.submit(int)
    leave.set()
    first.result(PATIENCE)
    assert 0 == queued.result(PATIENCE)


def test_shutdown_ends_the_threads() -> None:
    """Threads that are idle end, and those that are busy when they have done what is queued."""
    pool = DaemonThreadPool(2, "test")
    entered, leave = threading.Event(), threading.Event()

    def work() -> threading.Thread:
        entered.set()
        assert leave.wait(PATIENCE)
        return threading.current_thread()

    busy = pool.submit(work)
    assert entered.wait(PATIENCE)
    idle = pool.submit(threading.current_thread).result(PATIENCE)
    pool.shutdown()
    idle.join(PATIENCE)
    leave.set()
    busy.result(PATIENCE).join(PATIENCE)

    assert not idle.is_alive()
    assert not busy.result().is_alive()


def test_cancelled_future_is_not_run() -> None:
    """A call that is cancelled before its turn is left out."""
    pool = DaemonThreadPool(1, "test")
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert leave.wait(PATIENCE)

    first = pool.submit(work)
    assert entered.wait(PATIENCE)
    called: list[int] = []
    queued = pool.submit(called.append, 1)
    assert queued.cancel()
    leave.set()
    first.result(PATIENCE)
    pool.submit(int).result(PATIENCE)
    assert [] == called
    pool.shutdown()


def test_needs_a_thread() -> None:
    """A pool of no threads is refused."""
    with pytest.raises(ValueError, match="at least one"):
        DaemonThreadPool(0, "test")


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is refused, and never made, if there is no thread; else the others come to it."""
    calls: list[str] = []
    gate = threading.Event()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = DaemonThreadPool(2, "test")
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="no test thread can be started"):
            pool.submit(calls.append, "refused")
    first = pool.submit(gate.wait, PATIENCE)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        second = pool.submit(calls.append, "second")
    gate.set()
    assert first.result(PATIENCE)
    second.result(PATIENCE)
    assert ["second"] == calls
    together = threading.Barrier(2)
    for each in [pool.submit(together.wait, PATIENCE) for _ in range(2)]:
        each.result(PATIENCE)
    pool.shutdown()
