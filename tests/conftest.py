"""What holds for every test."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# No deadline: how long one example takes says more about the machine than about the code.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Shells start what runs in the background with SIGINT ignored, and programs inherit that. The
# programs of these tests are to end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
