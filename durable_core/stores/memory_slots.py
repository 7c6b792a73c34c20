"""Slots, queues, rate limits and singleton runs in the memory store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from durable_core.errors import SingletonError
from durable_core.machine.rate import next_start, spend
from durable_core.model.run import Phase, Run
from durable_core.ports import Begin, BeginRefused, Cancel, RateRule, Slots
from durable_core.ports.limits import NO_KEY

if TYPE_CHECKING:
    from durable_core.stores.memory_run import StoredRun

__all__ = ["FlowControl"]


class FlowControl:
    """What the memory store decides by the limits of endpoints.

    Args:
        runs: returns the runs of an application.
    """

    def __init__(self, runs: Callable[[str], Iterable[StoredRun]]) -> None:
        self._runs = runs
        #: By app and endpoint: the slot key that had its turn last.
        self._turns: dict[tuple[str, str], str] = {}
        #: By app, endpoint and key: when the bucket of a rate limit is full.
        self._rates: dict[tuple[str, str, str], float] = {}

    # -- beginning --------------------------------------------------------------------------

    def pass_limits(self, message: Begin, run: Run) -> tuple[BeginRefused | None, bool]:
        """Return why a run may not begin, and whether it is queued.

        Another run that is in its way alone is the last reason: it is to be cancelled then, if
        :meth:`replaced_by` returns it.
        """
        other = self._singleton_of(run)
        if other is None:
            return self._find_place(message, run, gone="", begins=True)
        refusal = BeginRefused(reason="singleton", run_id=other.id, client=other.client)
        if self.replaced_by(message, run) is None:
            return refusal, False
        begins = not other.undoable
        gone = other.id if begins else ""
        limited, is_queued = self._find_place(message, run, gone=gone, begins=begins)
        return limited or (None if begins else refusal), is_queued

    def _find_place(
        self, message: Begin, run: Run, *, gone: str, begins: bool
    ) -> tuple[BeginRefused | None, bool]:
        """Return which limit but that of singletons refuses a run, and whether it is queued.

        Args:
            message, run: the run.
            gone: a run that ends as this one begins; "" for none.
            begins: the run then begins, and uses the rate.
        """
        is_queued = message.slots is not None and not self._has_slot(run, message.slots, gone)
        if is_queued and message.queue_limit is not None:
            queued = [row for row in self._of(run, gone) if row.run.phase is Phase.QUEUED]
            if len(queued) >= message.queue_limit:
                return BeginRefused(reason="queue-full"), False
        if message.rate is not None:
            now = message.checkpoint.now
            retry_at = self._use_rate(run, message.rate, now, begins=begins)
            if retry_at is not None:
                return BeginRefused(reason="rate-limited", retry_at=retry_at), False
        return None, is_queued

    def replaced_by(self, message: Begin, run: Run) -> Cancel | None:
        """Return what cancels the run that has the singleton key, if it is to be replaced."""
        other, old = self._singleton_of(run), message.replaces
        return None if other is None or old is None or old.run_id != other.id else old

    def refuse_second(self, run: Run) -> None:
        """See that no other run has the singleton key of a run.

        Raises:
            SingletonError: one has.
        """
        other = self._singleton_of(run)
        if other is not None:
            raise SingletonError(f"run {other.id}, which has not ended, has its singleton key")

    def _singleton_of(self, run: Run) -> Run | None:
        if run.singleton_key is None:
            return None
        others = (row.run for row in self._of(run) if row.result is None and row.run.id != run.id)
        return next((each for each in others if each.singleton_key == run.singleton_key), None)

    def _use_rate(self, run: Run, rule: RateRule, now: int, *, begins: bool) -> int | None:
        place = run.app, run.endpoint_key, rule.key
        full_at = self._rates.get(place)
        retry_at = next_start(full_at, now, limit=rule.limit, period=rule.period)
        if retry_at > now:
            return retry_at
        if not begins:
            return None
        self._rates[place] = spend(full_at, now, limit=rule.limit, period=rule.period)
        return None

    def forget_rates(self, app: str, before: int) -> None:
        """Forget buckets that were full before that time."""
        self._rates = {
            place: full_at
            for place, full_at in self._rates.items()
            if place[0] != app or full_at >= before
        }

    # -- lines ------------------------------------------------------------------------------

    def enqueue(self, app: str, slots: Slots, now: int) -> None:
        """Queue the due runs of an endpoint; one whose response was being sent needs no slot."""
        for row in self._runs(app):
            if (
                row.run.endpoint_key == slots.endpoint_key
                and row.due_at is not None
                and row.due_at <= now
                and row.run.phase not in (Phase.QUEUED, Phase.RESPONDING)
            ):
                row.enqueue()

    def in_line(self, app: str, slots: Slots) -> Iterator[tuple[tuple[int, str], StoredRun]]:
        """Yield the queued runs of an endpoint in order, each after the one before is claimed."""
        while (row := self.next_in_line(app, slots)) is not None:
            yield row.due, row

    def next_in_line(self, app: str, slots: Slots, gone: str = "") -> StoredRun | None:
        """Return the queued run that is to have the next free slot; None if there is none."""
        rows = [
            row
            for row in self._runs(app)
            if row.run.endpoint_key == slots.endpoint_key and row.run.id != gone
        ]
        if not _is_free(rows, slots.most):
            return None
        last = self._turns.get((app, slots.endpoint_key), NO_KEY)
        queued = [row for row in rows if row.run.phase is Phase.QUEUED]
        keys = sorted({row.run.slot_key or NO_KEY for row in queued})
        if slots.most_of_key is None and NO_KEY in keys:
            keys = [NO_KEY]
        for key in sorted(keys, key=lambda key: (key <= last, key)):
            if _is_free(rows, slots.most_of_key, key):
                return min((row for row in queued if row.run.slot_key == key), key=lambda r: r.due)
        return None

    def take_turn(self, run: Run, slots: Slots) -> None:
        """Note that the slot key of a run has had its turn."""
        if slots.most_of_key is not None:
            self._turns[run.app, run.endpoint_key] = run.slot_key or NO_KEY

    def _has_slot(self, run: Run, slots: Slots, gone: str) -> bool:
        rows, key = list(self._of(run, gone)), run.slot_key or NO_KEY
        if slots.most is None:  # runs of other keys do not compete with it
            is_first = not any(
                row.run.phase is Phase.QUEUED and (row.run.slot_key or NO_KEY) == key
                for row in rows
            )
        else:
            is_first = self.next_in_line(run.app, slots, gone) is None
        return _is_free(rows, slots.most) and _is_free(rows, slots.most_of_key, key) and is_first

    def _of(self, run: Run, gone: str = "") -> Iterator[StoredRun]:
        rows = self._runs(run.app)
        return (
            row for row in rows if row.run.endpoint_key == run.endpoint_key and row.run.id != gone
        )


def _is_free(rows: Iterable[StoredRun], most: int | None, key: str | None = None) -> bool:
    """Tell whether fewer than ``most`` of the runs hold a slot, of those with the key if given."""
    if most is None:
        return True
    held = [row for row in rows if row.owner is not None and row.run.slot_key is not None]
    return sum(key is None or row.run.slot_key == key for row in held) < most
