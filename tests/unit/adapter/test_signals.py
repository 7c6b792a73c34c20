"""Leaving on a signal."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from durable_core.adapter.server import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(number: signal.Signals) -> None:
    """Each leaves, and afterwards the former handlers are back."""
    former = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    left = threading.Event()
    with stop_on_signals(left.set):
        os.kill(os.getpid(), number)
        assert left.wait(10)

    assert former == {each: signal.getsignal(each) for each in former}


def test_wake() -> None:
    """What the main thread waits for is woken; afterwards as before."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        with stop_on_signals(lambda: None, ours.fileno()):
            os.kill(os.getpid(), signal.SIGTERM)
            theirs.settimeout(10)
            assert bytes([signal.SIGTERM]) == theirs.recv(1)
        former = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(former)

    assert ours.fileno() != former or former == -1


def test_elsewhere() -> None:
    """Outside the main thread no handler can be set, and none is."""
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def enter() -> None:
        with stop_on_signals(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()

    assert [before] == seen
