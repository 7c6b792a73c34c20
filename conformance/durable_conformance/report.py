"""What a run of the suite has found, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from durable_conformance import __version__
from durable_conformance.contract import Capability, Kind, capabilities_of
from durable_conformance.gaps import base_of
from durable_conformance.requirements import Requirement

__all__ = ["Case", "Report", "Status"]


class Status(StrEnum):
    """How a case ended, or the cases of a requirement together; the worst comes first."""

    #: It failed, or could not be set up; a known gap that passed counts as this, too.
    FAIL = "fail"
    #: It was left out or skipped, by whoever started the suite.
    MISSING = "missing"
    #: It failed, as the file of known gaps says.
    KNOWN = "known-gap"
    #: It passed.
    PASS = "pass"
    #: It needs a capability that the subject does not declare.
    GAP = "gap"


_WORST_FIRST = tuple(Status)
#: The end of a reason that stands for half of all variants; the head of the report says so.
_HANDLERS = (Capability.SYNC_HANDLERS, Capability.ASYNC_HANDLERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case that was collected."""

    id: str
    requirement: str
    status: Status
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All cases of a run, seen by requirement.

    Args:
        subject: the subject's name.
        spec: how it was named on the command line.
        kind: of the subject.
        declared: its capabilities.
        requirements: those for its kind.
        collected: what became of each case.
    """

    subject: str
    spec: str
    kind: Kind
    declared: frozenset[str]
    requirements: tuple[Requirement, ...]
    collected: tuple[Case, ...]
    seconds: float = 0.0
    _by_requirement: dict[str, tuple[Case, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        grouped = {each.id: tuple(self._cases(each)) for each in self.requirements}
        object.__setattr__(self, "_by_requirement", grouped)

    def _cases(self, requirement: Requirement) -> Iterator[Case]:
        """Yield the requirement's cases, those that were not collected as missing."""
        mine = [case for case in self.collected if case.requirement == requirement.id]
        yield from mine
        for id_ in sorted(set(requirement.cases) - {base_of(case.id) for case in mine}):
            reason = "was not run"
            yield Case(id=id_, requirement=requirement.id, status=Status.MISSING, reason=reason)

    def cases_of(self, requirement: Requirement) -> tuple[Case, ...]:
        """Return what became of the cases of a requirement."""
        return self._by_requirement[requirement.id]

    def status_of(self, requirement: Requirement) -> Status:
        """Return the requirement's status: the worst of its cases."""
        return _worst(case.status for case in self.cases_of(requirement))

    @property
    def counts(self) -> Counter[Status]:
        """How many requirements have each status."""
        return Counter(self.status_of(each) for each in self.requirements)

    @property
    def ok(self) -> bool:
        """Whether every required case ran and passed."""
        return not self.counts[Status.FAIL] and not self.counts[Status.MISSING]

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        yield f"durable-conformance {__version__}: {self.subject} ({self.spec})"
        undeclared = [each for each in self._capabilities() if each not in self.declared]
        yield f"declared: {', '.join(sorted(self.declared)) or 'nothing'}"
        yield f"not declared: {', '.join(undeclared) or 'nothing'}"
        group = ""
        for requirement in self.requirements:
            if requirement.group != group:
                group = requirement.group
                yield group
            status = self.status_of(requirement)
            yield f"  {status.upper():<9} {requirement.id:<4} {requirement.title}"
            yield from self._remarks(requirement)
        yield self.summary()

    def _remarks(self, requirement: Requirement) -> Iterator[str]:
        """Yield a line for each case that did not pass, and for each gap."""
        cases = self.cases_of(requirement)
        if self.status_of(requirement) is Status.GAP:
            yield f"            {min((case.reason for case in cases), key=len)}"
        for case in cases:
            if case.status not in (Status.PASS, Status.GAP):
                yield f"            {case.status}: {case.id}  {case.reason}".rstrip()
        if self.status_of(requirement) is not Status.GAP:
            gaps = {base_of(case.id): case.reason for case in cases if case.status is Status.GAP}
            yield from (
                f"            {Status.GAP}: {id_}  {reason}"
                for id_, reason in gaps.items()
                if not reason.endswith(_HANDLERS)
            )

    def summary(self) -> str:
        """Return the report in one line."""
        total = len(self.requirements)
        shown = ", ".join(f"{self.counts[each]} {each}" for each in reversed(_WORST_FIRST))
        cases = Counter(case.status for case in self.collected)
        verdict = "conforms" if self.ok else "does not conform"
        if self.ok and self.counts[Status.KNOWN]:
            verdict = "conforms but for its known gaps"
        elif not self.ok and not self.counts[Status.FAIL] and self.counts[Status.MISSING]:
            verdict = "is not judged, as not all cases were run"
        return (
            f"{self.subject} {verdict}: {total} requirements ({shown}), {sum(cases.values())} "
            f"cases in {self.seconds:.1f} s"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as values for JSON."""
        return {
            "suite": {"name": "durable-conformance", "version": __version__},
            "subject": {"name": self.subject, "spec": self.spec, "kind": self.kind.name.lower()},
            "capabilities": {each.value: each in self.declared for each in self._capabilities()},
            "ok": self.ok,
            "seconds": round(self.seconds, 2),
            "counts": {each.value: self.counts[each] for each in Status},
            "requirements": [
                {
                    "id": each.id,
                    "title": each.title,
                    "group": each.group,
                    "status": self.status_of(each).value,
                    "cases": [_case_as_json(case) for case in self.cases_of(each)],
                }
                for each in self.requirements
            ],
        }

    def _capabilities(self) -> tuple[Capability, ...]:
        return capabilities_of(self.kind)


def _worst(statuses: Iterable[Status]) -> Status:
    return min(statuses, key=_WORST_FIRST.index)


def _case_as_json(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "status": case.status.value,
        "reason": case.reason,
        "seconds": round(case.seconds, 3),
    }
