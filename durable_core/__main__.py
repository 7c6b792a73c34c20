"""The command line: ``python -m durable_core``."""

from __future__ import annotations

import sys

from durable_core.cli import main

sys.exit(main())
