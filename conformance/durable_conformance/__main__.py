"""The command: ``python -m durable_conformance my_package.my_module:subject``.

pytest runs in a process of its own: this package must be imported by pytest, which rewrites its
assertions, and not before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

__all__ = ["main"]

_PLUGIN = "durable_conformance.plugin"


def main() -> int:
    """Run the suite against the subject that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m durable_conformance", description=_ABOUT)
    parser.add_argument("subject", help="what to judge: MODULE:NAME, looked for here, too")
    parser.add_argument("--client", metavar="MODULE:NAME", help="clients to call a server with")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON, too")
    parser.add_argument("--known-gaps", metavar="FILE", help="cases that must fail, with reasons")
    parser.add_argument("-k", metavar="EXPRESSION", help="only some cases (never conforms)")
    parser.add_argument("-x", action="store_true", help="stop at the first failure")
    options = parser.parse_args()
    return subprocess.run([sys.executable, "-m", "pytest", *_arguments(options)]).returncode


_ABOUT = "Judge an adapter or a store of durable-core. Exit code 0: it conforms; 1: it does not."


def _arguments(options: argparse.Namespace) -> list[str]:
    config = Path(__file__).with_name("suite.ini")
    arguments = ["-c", str(config), "-q", "-p", _PLUGIN, "--pyargs", "durable_conformance.suites"]
    arguments += ["--durable-subject", options.subject]
    if options.client is not None:
        arguments += ["--durable-client", options.client]
    if options.json is not None:
        arguments += ["--durable-json", str(Path(options.json).absolute())]
    if options.known_gaps is not None:
        arguments += ["--durable-known-gaps", str(Path(options.known_gaps).absolute())]
    if options.k is not None:
        arguments += ["-k", options.k]
    return [*arguments, "-x"] if options.x else arguments


if __name__ == "__main__":
    raise SystemExit(main())
