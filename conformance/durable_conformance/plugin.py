"""The pytest plugin: the subject, gaps, known gaps and the report.

It does nothing unless ``--durable-subject`` is given. Cases are the tests below
``durable_conformance.suites``; each is marked with :data:`requirement` and, where it needs a
capability, with :data:`needs`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from durable_conformance.contract import Capability, Client, Kind, capabilities_of, kind_of
from durable_conformance.gaps import KnownGapsError, base_of, read_gaps, unknown_gaps
from durable_conformance.isolation import can_isolate, run_isolated
from durable_conformance.report import Case, Report, Status
from durable_conformance.requirements import Requirement, load_requirements
from durable_conformance.wire import patience

__all__ = [
    "CLIENTS",
    "SUBJECT",
    "Judge",
    "case_id",
    "client_parameters",
    "load_clients",
    "load_subject",
    "needs",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "requirement",
]

#: Where the subject is, in ``config.stash``.
SUBJECT = pytest.StashKey[Any]()

#: The clients that servers are called with, by name; empty for none.
CLIENTS = pytest.StashKey[Mapping[str, Client]]()

#: ``@requirement("Q1")``: which requirement a case tests.
requirement = pytest.mark.durable_requirement
#: ``@needs(Capability.X)``: what a subject must declare, lest the case is a gap.
needs = pytest.mark.durable_needs

_SUITES = Path(__file__).with_name("suites")
_MARKS = (
    "durable_requirement(id): which requirement of durable-conformance a case tests",
    "durable_needs(capability): what a subject must declare, lest the case is a gap",
)
_JUDGE = "durable_conformance.judge"
_GAP = "GAP: "
_KNOWN = "known gap: "
#: The limit of time for a case, in multiples of how long it waits for one thing.
_MOST_PATIENCE = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("durable-conformance")
    group.addoption("--durable-subject", metavar="MODULE:NAME", help="what the suite judges")
    group.addoption("--durable-client", metavar="MODULE:NAME", help="clients to call a server with")
    group.addoption("--durable-json", metavar="FILE", help="write the report as JSON")
    group.addoption("--durable-known-gaps", metavar="FILE", help="cases that must fail")


def pytest_configure(config: pytest.Config) -> None:
    """Load the subject, if one is named."""
    for mark in _MARKS:
        config.addinivalue_line("markers", mark)
    spec = config.getoption("--durable-subject")
    if spec is not None:
        judge = Judge(config, spec)
        config.stash[SUBJECT] = judge.subject
        config.stash[CLIENTS] = load_clients(config.getoption("--durable-client"))
        config.pluginmanager.register(judge, _JUDGE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse to run cases without a subject."""
    if not config.pluginmanager.has_plugin(_JUDGE) and any(map(_is_case, items)):
        raise pytest.UsageError("the suite needs --durable-subject MODULE:NAME")


def case_id(item: pytest.Item) -> str:
    """Return how a case is called, such as ``"test_requests::test_methods[sync]"``."""
    return f"{item.path.stem}::{item.name}"


def _is_case(item: pytest.Item) -> bool:
    return item.path.parent == _SUITES


def load_subject(spec: str) -> tuple[Any, Kind]:
    """Return the subject, and what it is.

    Raises:
        pytest.UsageError: it cannot be imported, or is no subject.
    """
    subject = _import_object("subject", spec)
    kind = kind_of(subject)
    if kind is None:
        methods = ", ".join(f"{each.value}()" for each in Kind)
        raise pytest.UsageError(f"{spec} is no subject: it has none of the methods {methods}")
    _check_declaration(spec, subject, kind)
    return subject, kind


def load_clients(spec: str | None) -> Mapping[str, Client]:
    """Return the clients by name; none for None.

    Raises:
        pytest.UsageError: they cannot be imported, or are no mapping of functions.
    """
    if spec is None:
        return {}
    clients = _import_object("client", spec)
    if not isinstance(clients, Mapping) or not clients or not all(map(callable, clients.values())):
        raise pytest.UsageError(f"{spec} must be a mapping of names to functions that call a URL")
    return clients


def client_parameters(config: pytest.Config) -> list[Any]:
    """Return what a case about clients is parametrized with: each client, or a gap."""
    clients = config.stash.get(CLIENTS, {})
    if clients:
        return [pytest.param(client, id=name) for name, client in clients.items()]
    reason = f"{_GAP}no client is named: --client MODULE:NAME"
    return [pytest.param(None, id="no-client", marks=pytest.mark.skip(reason=reason))]


def _import_object(what: str, spec: str) -> Any:
    module, _, name = spec.partition(":")
    if not module or not name:
        raise pytest.UsageError(f"a {what} is named as MODULE:NAME, not {spec!r}")
    try:
        return getattr(import_module(module), name)
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}"
        raise pytest.UsageError(f"the {what} {spec} cannot be imported: {text}") from error


def _check_declaration(spec: str, subject: Any, kind: Kind) -> None:
    name, declared = getattr(subject, "name", None), getattr(subject, "capabilities", None)
    if not isinstance(name, str) or not isinstance(declared, frozenset):
        raise pytest.UsageError(f"{spec} must have a str `name` and a frozenset `capabilities`")
    unknown = sorted(set(map(str, declared)) - set(capabilities_of(kind)))
    if unknown:
        known = ", ".join(capabilities_of(kind))
        what = f"a subject of the kind {kind.name.lower()} may declare"
        raise pytest.UsageError(f"{spec} declares {unknown}; {what}: {known}")
    handlers = {Capability.SYNC_HANDLERS, Capability.ASYNC_HANDLERS}
    if kind is not Kind.STORE and not handlers & declared:
        raise pytest.UsageError(f"{spec} must declare one of {', '.join(sorted(handlers))}")


class Judge:
    """Judges one subject in one session."""

    def __init__(self, config: pytest.Config, spec: str) -> None:
        self.spec = spec
        self.subject, self.kind = load_subject(spec)
        self.requirements = _requirements_for(self.kind)
        self._json = config.getoption("--durable-json")
        self._known = _known_gaps(config.getoption("--durable-known-gaps"))
        self._requirement_of: dict[str, str] = {}
        self._cases: dict[str, Case] = {}
        self._began = time.monotonic()

    # -- collecting -------------------------------------------------------------------------

    def pytest_report_header(self) -> str:
        """Say what is judged."""
        declared = ", ".join(sorted(self.subject.capabilities)) or "nothing"
        return f"durable-conformance: {self.subject.name} ({self.spec}), which declares {declared}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out the cases for other kinds of subjects, mark known gaps."""
        mine = {each.id for each in self.requirements}
        others = [item for item in items if _is_case(item) and _id_of(item) not in mine]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
        cases = {case_id(item): item for item in items if _is_case(item)}
        unknown = unknown_gaps(self._known, cases)
        if unknown:
            raise pytest.UsageError(f"the known gaps name cases that there are not: {unknown}")
        for id_, item in cases.items():
            self._requirement_of[item.nodeid] = _id_of(item)
            reason = self._known.get(id_) or self._known.get(base_of(id_))
            if reason is not None:
                item.add_marker(pytest.mark.xfail(reason=_KNOWN + reason, strict=True))

    # -- running ----------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Make a gap of a case whose needs are not declared."""
        if not _is_case(item):
            return
        needed = {str(mark.args[0]) for mark in item.iter_markers("durable_needs")}
        missing = sorted(needed & set(capabilities_of(self.kind)) - self.subject.capabilities)
        if missing:
            pytest.skip(f"{_GAP}not declared: {', '.join(missing)}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Run each case in a process of its own, with a limit of time; see ``isolation``.

        Where processes cannot be forked, all cases run in this one, without a limit.
        """
        if not _is_case(item) or not can_isolate():
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in run_isolated(item, _MOST_PATIENCE * patience()):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, str] | None:
        """Show gaps as such."""
        if report.skipped and _is_gap(report):
            return "gap", "G", "GAP"
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of a case; the worst of its set-up, call and tear-down counts."""
        requirement_id = self._requirement_of.get(report.nodeid)
        if requirement_id is None or (report.passed and report.when != "call"):
            return
        id_ = re.sub(r"^.*?(\w+)\.py::", r"\1::", report.nodeid)
        known = self._cases.get(id_)
        if known is None or report.failed:
            self._cases[id_] = Case(
                id=id_,
                requirement=requirement_id,
                status=_status(report),
                reason=_reason(report),
                seconds=report.duration,
            )

    # -- reporting --------------------------------------------------------------------------

    def report(self) -> Report:
        """Return what has been found so far."""
        return Report(
            subject=self.subject.name,
            spec=self.spec,
            kind=self.kind,
            declared=frozenset(map(str, self.subject.capabilities)),
            requirements=self.requirements,
            collected=tuple(self._cases.values()),
            seconds=time.monotonic() - self._began,
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write the JSON, and let nobody take an incomplete run for a success."""
        report = self.report()
        if self._json is not None:
            text = json.dumps(report.as_json(), indent=2, ensure_ascii=False)
            Path(self._json).write_text(f"{text}\n", "utf-8")
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.OK if report.ok else pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the report."""
        if not self._requirement_of:
            return
        terminalreporter.section("conformance")
        for line in self.report().lines():
            terminalreporter.write_line(line)


def _requirements_for(kind: Kind) -> tuple[Requirement, ...]:
    return tuple(each for each in load_requirements() if kind in each.kinds)


def _known_gaps(path: str | None) -> dict[str, str]:
    try:
        return {} if path is None else read_gaps(Path(path))
    except KnownGapsError as error:
        raise pytest.UsageError(str(error)) from error


def _id_of(item: pytest.Item) -> str:
    mark = item.get_closest_marker("durable_requirement")
    return str(mark.args[0]) if mark is not None else ""


def _status(report: pytest.TestReport) -> Status:
    if report.failed:
        return Status.FAIL
    if report.passed:
        return Status.PASS
    if hasattr(report, "wasxfail"):
        return Status.KNOWN
    return Status.GAP if _is_gap(report) else Status.MISSING


def _is_gap(report: pytest.CollectReport | pytest.TestReport) -> bool:
    text = report.longrepr
    return isinstance(text, tuple) and text[2].startswith(f"Skipped: {_GAP}")


def _reason(report: pytest.CollectReport | pytest.TestReport) -> str:
    """Return one line about why a case did not pass."""
    if report.passed:
        return ""
    known = getattr(report, "wasxfail", "")
    if known:
        return str(known).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ").removeprefix(_GAP)
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return next(_first_lines(str(report.longrepr or "")), "")
    line = next(_first_lines(crash.message), "")
    return f"{line} ({Path(crash.path).name}:{crash.lineno})"


def _first_lines(text: str) -> Iterator[str]:
    yield from (line.strip()[:200] for line in text.splitlines() if line.strip())
