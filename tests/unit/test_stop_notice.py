"""What a process is told when its server is asked to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from durable_core.stop_notice import StopNotice

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Server:
    """A server that sets handlers of its own, which note the signals."""

    def __init__(self) -> None:
        self.got: list[int] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.got.append(number)


class Call:
    """What is called, and when."""

    def __init__(self) -> None:
        self.made = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []

    def __call__(self) -> None:
        self.threads.append(threading.current_thread())
        self.made.release()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose handlers are set."""
    server = Server()
    former = {number: signal.signal(number, server.handle) for number in SIGNALS}
    yield server
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_server_gets_the_signal_too(server: Server, number: signal.Signals) -> None:
    """The call is made in a thread, each time; afterwards the server's handlers are back."""
    call = Call()
    with StopNotice(call):
        for _ in range(2):
            os.kill(os.getpid(), number)
            assert call.made.acquire(timeout=10)

    assert [number] * 2 == server.got
    assert threading.main_thread() not in call.threads
    assert [server.handle] * 2 == [signal.getsignal(each) for each in SIGNALS]


def test_default_actions_stay() -> None:
    """A signal that nobody handles does what it would do without a notice."""
    former = {number: signal.getsignal(number) for number in SIGNALS}
    assert {signal.SIG_DFL, signal.default_int_handler} == set(former.values())
    with StopNotice(Call()):
        assert former == {number: signal.getsignal(number) for number in SIGNALS}


def test_a_handler_that_was_set_later_stays(server: Server) -> None:
    """It may call the one before it, also after the notice was closed."""
    call = Call()
    notice = StopNotice(call)
    before: Any = signal.getsignal(signal.SIGTERM)
    later = Server()

    def handle(number: int, frame: FrameType | None) -> None:
        later.handle(number, frame)
        before(number, frame)

    signal.signal(signal.SIGTERM, handle)
    notice.close()
    os.kill(os.getpid(), signal.SIGTERM)

    assert handle == signal.getsignal(signal.SIGTERM)
    assert [signal.SIGTERM] == later.got == server.got
    assert not call.threads


def test_other_threads_set_nothing(server: Server) -> None:
    """Only the main thread can set handlers."""
    seen: list[object] = []

    def enter() -> None:
        with StopNotice(Call()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()

    assert [server.handle] == seen


def test_a_call_that_fails_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The next one is made all the same."""
    made = threading.Semaphore(0)

    def call() -> None:
        made.release()
        raise ValueError("no")

    with StopNotice(call):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert made.acquire(timeout=10)

    assert "clients could not be handed on" in caplog.text


def test_a_worker_of_hypercorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets no signal: its process has an event."""
    event, call = threading.Event(), Call()
    process = SimpleNamespace(_kwargs={"shutdown_event": event})
    monkeypatch.setitem(sys.modules, "hypercorn", SimpleNamespace())
    monkeypatch.setattr(multiprocessing, "current_process", lambda: process)

    with StopNotice(call):
        assert not call.made.acquire(timeout=0.2)
        event.set()
        assert call.made.acquire(timeout=10)

    assert 1 == len(call.threads)


def test_a_signal_at_any_moment_ends_a_wait() -> None:
    """Between any two instructions of the waiting thread, also where it holds a lock."""
    program = """
import faulthandler, signal, sys
from durable_core import stop_notice

stop_notice._LOOK_FOR_SIGNAL = 0.001
faulthandler.dump_traceback_later(20, exit=True)


def wait_with_signal_at(moment):
    event, passed = stop_notice.SignalEvent(), 0
    signal.signal(signal.SIGTERM, lambda *_: event.set())

    def trace(frame, what, argument):
        nonlocal passed
        frame.f_trace_opcodes = True
        if what == "opcode":
            passed += 1
            if passed == moment:
                signal.raise_signal(signal.SIGTERM)
        return trace

    sys._getframe().f_trace_opcodes = True  # without it, Python 3.12 tells of none
    sys.settrace(trace)
    event.wait()
    sys.settrace(None)
    assert event.is_set()


for moment in range(1, 100):
    wait_with_signal_at(moment)
print("all")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ("all\n", "") == (ended.stdout, ended.stderr)
