"""The system's clock and randomness."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time

from durable_core.platform import SystemClock, SystemIds, call_soon, host_id, is_ulid


def test_clock() -> None:
    """The clock gives epoch milliseconds."""
    before = time.time_ns() // 1_000_000
    assert before <= SystemClock().now() <= time.time_ns() // 1_000_000


def test_ids() -> None:
    """ULIDs carry their time and differ; numbers are in [0, 1)."""
    ids = SystemIds()
    made = {ids.ulid(1_700_000_000_000) for _ in range(100)}
    assert 100 == len(made)
    assert {"01HF7YAT00"} == {each[:10] for each in made}
    assert all(map(is_ulid, made))
    assert all(0 <= ids.uniform() < 1 for _ in range(100))


def test_host() -> None:
    """The host's name is the same for every process, and not empty."""
    assert host_id() == host_id() != "/"


def test_call_on_a_closed_loop() -> None:
    """What is to be called on a loop that is closed is not, and the caller is told."""
    calls: list[int] = []
    loop = asyncio.new_event_loop()

    assert call_soon(loop, calls.append, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert not call_soon(loop, calls.append, 2)
    assert [1] == calls


def test_a_fork_has_a_process_id_of_its_own() -> None:
    """In the parent and in a child it is the one that the system gives."""
    program = """
        import os
        from durable_core.platform import process_id

        print(process_id() == os.getpid(), flush=True)
        child = os.fork()
        if child == 0:
            print(process_id() == os.getpid(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(process_id() == os.getpid(), flush=True)
    """
    printed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True
    ).stdout
    assert "True\nTrue\nTrue\n" == printed


def test_a_fork_makes_ids_of_its_own() -> None:
    """Ids for the same time differ, although their random part is made ahead."""
    program = """
        import os
        from durable_core.platform import SystemIds

        SystemIds().ulid(1)
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        print(SystemIds().ulid(1), flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert 2 == len(set(found.stdout.split()))
