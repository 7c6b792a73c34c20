"""What holds for every test."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: how long one example takes says more about the machine than about the code.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Shells start what runs in the background with SIGINT ignored, and programs inherit that. The
# programs of these tests are to end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: The tests that coverage is measured by: those that are about the core and that measure no time.
MEASURED = [
    *(Path(__file__).with_name(name) for name in ("unit", "laws", "interop")),
    # Where endpoints begin in the frame of a framework's own call.
    *(Path(__file__).parents[1] / "adapters" / name for name in ("flask", "starlette")),
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Pause the measurement of coverage in all other tests: it would slow their servers down."""
    if config.pluginmanager.has_plugin("_cov"):
        for item in items:
            if not any(item.path.is_relative_to(folder) for folder in MEASURED):
                item.add_marker("no_cover")
