"""What importing the library loads, seen from fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.source_tree import PURE_ROOMS, ROOT, core_modules

OUTSIDE_WORLD = (
    *("_socket", "_sqlite3", "asyncio", "email", "http", "logging", "multiprocessing", "random"),
    *("select", "selectors", "signal", "socket", "sqlite3", "ssl", "subprocess", "threading"),
)

#: Imports the modules named in its arguments where nothing of the outside world can be imported.
IMPORT_BLOCKED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
loaded = sorted(set({OUTSIDE_WORLD!r}) & set(sys.modules))
assert not loaded, f"the interpreter itself has loaded {{loaded}}"
sys.modules.update(dict.fromkeys({OUTSIDE_WORLD!r}))
try:
    for name in sys.argv[1:]:
        __import__(name)
finally:
    for name in {OUTSIDE_WORLD!r}:  # for the interpreter itself uses some of them when it ends
        del sys.modules[name]
"""

#: Prints which modules an import, and then a use of every public name, have loaded.
IMPORT_FACADE = """
import json, sys
before = set(sys.modules)
import durable_core
at_import = sorted(set(sys.modules) - before)
for name in durable_core.__all__:
    getattr(durable_core, name)
json.dump([at_import, sorted(set(sys.modules) - before)], sys.stdout)
"""

#: Imports what a user's module does, makes an application of it, and prints what that has loaded.
MAKE_AN_APPLICATION = """
import json, sys
from durable_core import Durable, endpoint_adapter, step
durable = Durable(id="shop", store="shop.db", endpoint_adapter=endpoint_adapter)
@durable.endpoint(retries=5)
async def order(request): ...
json.dump(sorted(sys.modules), sys.stdout)
"""

#: What only a running application needs; loading it takes longer than all the rest.
FOR_RUNNING = {
    *("asyncio", "concurrent.futures", "email", "http", "importlib.metadata", "socket", "sqlite3"),
    *("ssl", "subprocess"),
    *("durable_core.commit_queue", "durable_core.engine.worker", "durable_core.runners.thread"),
    *("durable_core.flow.effects", "durable_core.ports", "durable_core.stores"),
    *("durable_core.streams", "durable_core.testing"),
}

#: Print the processor time in seconds that an import takes. The first one is the floor: what the
#: standard library takes of the time of an application that runs.
TIMED = "import time; begun = time.process_time()\n{}\nprint(time.process_time() - begun)"
FLOOR = TIMED.format("import asyncio, dataclasses, inspect, json, logging, sqlite3, typing")
USERS_IMPORT = TIMED.format("from durable_core import Durable, step")


def run_fresh(options: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter, and return how that went."""
    command = [sys.executable, options, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_pure_rooms_need_nothing_outside(room: str) -> None:
    """Every module of a pure room can be imported where nothing of the outside world can."""
    package = f"durable_core.{room}"
    names = [m.name for m in core_modules() if f"{m.name}.".startswith(f"{package}.")]

    done = run_fresh("-IS", IMPORT_BLOCKED, *names)

    assert "" == done.stderr


def test_blocking_blocks() -> None:
    """The interpreter of the test above refuses what it says it refuses."""
    done = run_fresh("-IS", IMPORT_BLOCKED, "asyncio")

    assert "ModuleNotFoundError: import of asyncio halted" in done.stderr


def test_facade_is_lazy_and_alone() -> None:
    """Importing durable_core loads no room that does I/O; using all of it loads no third party."""
    done = run_fresh("-P", IMPORT_FACADE)
    assert "" == done.stderr
    at_import, in_use = json.loads(done.stdout)

    assert [] == [name for name in at_import if name in OUTSIDE_WORLD]
    assert [] == [name for name in at_import if name.startswith("durable_core.")]
    assert {"durable_core"} == {name.split(".")[0] for name in in_use} - sys.stdlib_module_names


def test_an_application_that_is_made_does_not_run() -> None:
    """Wrapping endpoints loads no scheduler, store, event loop or socket; serving them does."""
    done = run_fresh("-P", MAKE_AN_APPLICATION)
    assert "" == done.stderr

    assert set() == FOR_RUNNING & set(json.loads(done.stdout))


def test_import_is_cheap() -> None:
    """What users import takes 1.6 to 1.9 times the floor; all of the library takes 5 times."""
    floor, users = (
        min(float(run_fresh("-P", program).stdout) for _ in range(5))
        for program in (FLOOR, USERS_IMPORT)
    )

    assert users < 2.5 * floor
