#!/usr/bin/env python3
"""The developer's one command: ``python3 dev.py {setup,demo,test,check,bench,soak,docs,...}``.

It needs Python 3.11 or newer and a package index. Every command runs in one virtual environment,
``.venv`` in the checkout, which holds the project's distributions (editable) and its tools. The
environment is made on first use, brought up to date when a ``pyproject.toml`` changes, and made
again when it is broken, was left half made, or belongs to another Python or another folder.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python should say why it gets no further
    sys.exit("dev.py needs Python 3.11 or newer; this is " + sys.version.split()[0])

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

if sys.platform != "win32":
    import fcntl

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
STAMP = VENV / "dev-stamp.json"
LOCK = ROOT / ".venv.lock"

#: Files that a program writes: (program, target). The target holds what the program prints.
GENERATED: tuple[tuple[str, str], ...] = (
    ("docs/_generate/rooms.py", "docs/explanation/architecture.md"),
    ("docs/_generate/run_states.py", "docs/reference/run-states.md"),
    ("docs/_generate/signatures.py", "docs/reference/signatures.md"),
)

#: The adapters in docs/reference/matrix.md, as the conformance suite is told them.
SUBJECTS = (
    "durable_wsgi.conformance:subject",
    "durable_asgi.conformance:subject",
    "durable_asyncio.conformance:subject",
)
#: What the suite calls their servers with.
CLIENTS = "durable_client.conformance:clients"
MATRIX = "docs/reference/matrix.md"

CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    # A user's program in strict mode, by the other type checker that users have.
    ("basedpyright", "-p", "tests/typing/pyrightconfig.json", "--pythonpath", str(PYTHON)),
)

# The settings are in pyproject.toml. The plugins would import the core before coverage sees it;
# their tests load them in processes of their own.
COVERAGE = ("--cov", "-p", "no:durable_conformance.plugin", "-p", "no:durable_core.pytest_plugin")

# Fails when a distribution named in its arguments is not installed.
PROBE = "import sys; from importlib.metadata import version; [version(n) for n in sys.argv[1:]]"

Command = Callable[[argparse.Namespace, Sequence[str]], None]


# --- the environment ------------------------------------------------------------------------------


def ensure_venv() -> None:
    """Make ``.venv`` or bring it up to date; do nothing when it is current."""
    with locked():
        wanted, found = wanted_stamp(), read_stamp()
        if found == wanted and is_whole():
            return
        only_projects_changed = found.keys() == wanted.keys() and (
            {key for key in wanted if found[key] != wanted[key]} == {"projects"}
        )
        if not only_projects_changed:
            make_venv()
        STAMP.unlink(missing_ok=True)  # from here to the new stamp it counts as half made
        install()
        STAMP.write_text(json.dumps(wanted), "utf-8")


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep every other dev.py of this checkout away from the environment meanwhile."""
    with LOCK.open("w") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def project_folders() -> list[Path]:
    """Return the folders of all distributions in the checkout, the core first."""
    adapters = sorted(path.parent for path in ROOT.glob("adapters/*/pyproject.toml"))
    return [ROOT, ROOT / "conformance", *adapters]


def pyproject(folder: Path) -> dict[str, Any]:
    """Return a distribution's ``pyproject.toml``."""
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))


def tools() -> list[str]:
    """Return the requirements of every dependency group, such as ``"pytest ~=9.2"``."""
    groups = pyproject(ROOT)["dependency-groups"]
    return [requirement for group in groups.values() for requirement in group]


def wanted_stamp() -> dict[str, str]:
    """Return what the environment must have been made from to be usable as it is."""
    digest = hashlib.sha256()
    for folder in project_folders():
        digest.update((folder / "pyproject.toml").read_bytes())
    return {"root": str(ROOT), "python": sys.version, "projects": digest.hexdigest()}


def read_stamp() -> dict[str, str]:
    """Return what the environment was made from; empty when it is missing or half made."""
    try:
        stamp = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_whole() -> bool:
    """Tell whether the environment's Python runs and finds every tool and distribution."""
    names = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in tools()]
    names += [pyproject(folder)["project"]["name"] for folder in project_folders()]
    try:
        return subprocess.run([PYTHON, "-c", PROBE, *names], capture_output=True).returncode == 0
    except OSError:
        return False


def make_venv() -> None:
    """Make an empty environment in place of whatever is there."""
    say(f"making {VENV.name} with Python {sys.version.split()[0]}")
    try:
        import ensurepip  # noqa: F401 - some systems ship venv without it
        import venv
    except ImportError as error:
        fail(
            f"this Python cannot make a virtual environment ({error}). Install its venv module "
            "(on Debian and Ubuntu: apt-get install python3-venv) or use another Python 3.11+."
        )
    try:
        if VENV.is_symlink() or VENV.is_file():
            VENV.unlink()
        elif VENV.exists():
            shutil.rmtree(VENV)
        venv.create(VENV, with_pip=True, symlinks=sys.platform != "win32")
    except (OSError, subprocess.CalledProcessError) as error:
        fail(f"could not make {VENV}: {error}")


def install() -> None:
    """Install the distributions and the tools.

    It takes one pip command: the distributions need each other, and no index has them.
    """
    say("installing the distributions and the tools")
    editable = [option for folder in project_folders() for option in ("--editable", str(folder))]
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "-qq", "install", "--no-input")
    if subprocess.run([*pip, *editable, *tools()], cwd=ROOT).returncode:
        fail("pip could not install what the project needs; its own message is above")


# --- running things -------------------------------------------------------------------------------


def say(message: str) -> None:
    """Print a line of dev.py's own, on stderr so that it mixes with no program's output."""
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    """Print why nothing more can be done, and leave."""
    say(message)
    raise SystemExit(1)


def become(*command: str | Path) -> NoReturn:
    """Go on as the environment's Python, so that signals and the exit code are the program's."""
    sys.stdout.flush()
    arguments = [str(PYTHON), *map(str, command)]
    if sys.platform == "win32":
        raise SystemExit(subprocess.run(arguments).returncode)
    os.execv(PYTHON, arguments)


def become_script(script: Path, arguments: Sequence[str]) -> NoReturn:
    """Go on as a script of the checkout, in the caller's own folder."""
    if not script.is_file():
        known = ", ".join(sorted(path.stem for path in script.parent.glob("[!_]*.py"))) or "none"
        fail(f"there is no {script.relative_to(ROOT)}; known: {known}")
    ensure_venv()
    become(script, *arguments)


def run_checks() -> None:
    """Run every check, also after one has failed; leave with 1 when any did."""
    failed = []
    for words in CHECKS:
        say(" ".join(words))
        if subprocess.run([PYTHON, "-m", *words], cwd=ROOT).returncode:
            failed.append(" ".join(words))
    if failed:
        fail(f"failed: {', '.join(failed)}")


# --- commands -------------------------------------------------------------------------------------


def setup(_options: argparse.Namespace, _extra: Sequence[str]) -> None:
    """Make the environment, or bring it up to date."""
    ensure_venv()
    say(f"{VENV.name} is current")


def demo(_options: argparse.Namespace, extra: Sequence[str]) -> None:
    """Serve the demo, examples/trip_booking.py."""
    become_script(ROOT / "examples" / "trip_booking.py", extra)


def example(options: argparse.Namespace, extra: Sequence[str]) -> None:
    """Run examples/NAME.py."""
    become_script(ROOT / "examples" / f"{options.name}.py", extra)


def test(options: argparse.Namespace, extra: Sequence[str]) -> None:
    """Run the checks, then pytest, whose closing line is the last one."""
    ensure_venv()
    os.chdir(ROOT)
    # Some containers set it. Every worker and every program of a test would compile all anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # One worker more than there are processors, since many tests wait for other processes; who is
    # done early takes tests over from the others.
    pytest = ("-m", "pytest", "-n", str((os.cpu_count() or 1) + 1), "--dist", "worksteal")
    if options.fast:
        become(*pytest, "-m", "not slow", *extra)
    run_checks()
    # Arguments may choose some of the tests, which cover less.
    become(*pytest, *(extra or COVERAGE))


def check(_options: argparse.Namespace, _extra: Sequence[str]) -> None:
    """Run the linter, the formatter's check and the type checker."""
    ensure_venv()
    run_checks()


def bench(options: argparse.Namespace, extra: Sequence[str]) -> None:
    """Run benchmarks/NAME.py."""
    become_script(ROOT / "benchmarks" / f"{options.name}.py", extra)


def soak(_options: argparse.Namespace, extra: Sequence[str]) -> None:
    """Kill, freeze and stop servers that share a store, and judge what they did (tests/soak)."""
    ensure_venv()
    os.environ["PYTHONPATH"] = str(ROOT / "tests")
    become("-m", "soak", *extra)


def docs(_options: argparse.Namespace, _extra: Sequence[str]) -> None:
    """Write the generated files of docs/ anew."""
    ensure_venv()
    for path, target in GENERATED:
        program = [str(PYTHON), path]
        text = subprocess.run(program, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        (ROOT / target).write_bytes(text)
        say(f"wrote {target}")


def screenshots(_options: argparse.Namespace, _extra: Sequence[str]) -> None:
    """Take the pictures of docs/images anew; this needs Chromium."""
    ensure_venv()
    os.chdir(ROOT)
    os.environ["DURABLE_SCREENSHOTS"] = str(ROOT / "docs" / "images")
    tests = "adapters/dashboard/tests/test_durable_dashboard_browser.py"
    become("-m", "pytest", "-n", "0", "-q", tests, "-k", "pictures")


def matrix(_options: argparse.Namespace, _extra: Sequence[str]) -> None:
    """Judge every adapter, and write docs/reference/matrix.md anew."""
    ensure_venv()
    with tempfile.TemporaryDirectory() as folder:
        reports = []
        for number, subject in enumerate(SUBJECTS):
            reports.append(f"{folder}/{number}.json")
            say(f"judging {subject}")
            suite = [str(PYTHON), "-m", "durable_conformance", subject, "--client", CLIENTS]
            suite += ["--json", reports[-1]]
            if subprocess.run(suite, cwd=folder).returncode:
                fail(f"{subject} does not conform")
        program = [str(PYTHON), "-m", "durable_conformance.matrix", *reports]
        text = subprocess.run(program, check=True, stdout=subprocess.PIPE).stdout
    (ROOT / MATRIX).write_bytes(text)
    say(f"wrote {MATRIX}")


def make_parser() -> argparse.ArgumentParser:
    """Return the command line. Arguments that a command passes on are only shown, not parsed."""
    parser = argparse.ArgumentParser(prog="dev.py", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(run: Command, name: str, passed_on: str = "") -> argparse.ArgumentParser:
        usage = f"dev.py {name} {passed_on}".rstrip()
        command = commands.add_parser(
            name, help=run.__doc__, description=run.__doc__, usage=usage, allow_abbrev=False
        )
        command.set_defaults(run=run, passes_on=bool(passed_on))
        return command

    add(setup, "setup")
    add(demo, "demo", "[--port 8000] [--store PATH]")
    add(example, "example", "NAME [its arguments]").add_argument("name", metavar="NAME")
    fast = add(test, "test", "[--fast] [pytest arguments]")
    fast.add_argument("--fast", action="store_true", help="only pytest, without its slow tests")
    add(check, "check")
    add(bench, "bench", "NAME [its arguments]").add_argument("name", metavar="NAME")
    add(soak, "soak", "[--kills 300] [--seed N] [further arguments]")
    add(docs, "docs")
    add(matrix, "matrix")
    add(screenshots, "screenshots")
    return parser


def main() -> None:
    """Run the command that the command line names."""
    parser = make_parser()
    options, extra = parser.parse_known_args()
    if extra and not options.passes_on:
        parser.error(f"unknown arguments: {' '.join(extra)}")
    options.run(options, extra)


if __name__ == "__main__":
    main()
