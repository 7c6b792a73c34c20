"""``dev.py soak --steady MINUTES``: nothing is killed, and nothing may grow or become slower.

The processes and clients are those of the soak. Memory and descriptors of each process are sampled
every second. One more client asks for runs of a fixed program, whose latencies can be compared:
those of the random programs differ too much.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = ["Sample", "Sampler", "Steadiness"]

T = TypeVar("T")

#: The time is divided into so many parts.
_PARTS = 6
#: What the last part may have more than the first one.
_SLOWER = 1.2
_RSS_GROWTH_MIB = 20.0
_FD_GROWTH = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at one moment.

    Attributes:
        at: monotonic time, seconds.
        rss: resident memory, MiB.
        fds: open file descriptors.
    """

    at: float
    rss: float
    fds: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        """Look at a process, by proc(5)."""
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
        rss = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        return cls(time.monotonic(), rss, len(os.listdir(f"/proc/{pid}/fd")))


class Sampler:
    """Takes samples of processes, every second, in a thread.

    Args:
        pids: the processes by name.

    Attributes:
        samples: what was seen, by name.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: dict[str, list[Sample]] = {name: [] for name in pids}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the samples do not change any more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            for name, pid in self._pids.items():
                self.samples[name].append(Sample.of(pid))


@dataclass(frozen=True, slots=True)
class Steadiness:
    """The judgement: lines of a report, and what is not steady.

    Attributes:
        lines: figures, for people.
        faults: what grew, or became slower.
    """

    lines: tuple[str, ...]
    faults: tuple[str, ...]

    @classmethod
    def of(
        cls,
        samples: Mapping[str, Sequence[Sample]],
        latencies: Sequence[tuple[float, float]],
        begin: float,
        end: float,
    ) -> Steadiness:
        """Compare the last sixth of the time with the first one.

        Memory and descriptors are compared with the second one: caches and pools fill in the first.

        Args:
            samples: of each process.
            latencies: when a fixed request was sent, and how long it took, seconds.
            begin, end: the time, monotonic seconds.
        """
        lines: list[str] = []
        faults: list[str] = []
        for name, seen in samples.items():
            parts = _split([(each.at, each) for each in seen], begin, end)
            rss = [max((each.rss for each in part), default=0.0) for part in parts]
            fds = [max((each.fds for each in part), default=0) for part in parts]
            lines.append(f"{name}: RSS {_row(rss, '.0f')} MiB, descriptors {_row(fds, 'd')}")
            if rss[-1] - rss[1] > _RSS_GROWTH_MIB:
                faults.append(f"the memory of {name} grew from {rss[1]:.0f} to {rss[-1]:.0f} MiB")
            if fds[-1] - fds[1] > _FD_GROWTH:
                faults.append(f"the descriptors of {name} grew from {fds[1]} to {fds[-1]}")
        parts_of_latencies = _split(latencies, begin, end)
        tails = [_percentile(part, 0.99) * 1000 for part in parts_of_latencies]
        medians = [_percentile(part, 0.5) * 1000 for part in parts_of_latencies]
        lines.append(f"three steps: p50 {_row(medians, '.1f')} ms, p99 {_row(tails, '.1f')} ms")
        if tails[-1] > _SLOWER * tails[0]:
            faults.append(f"p99 rose from {tails[0]:.1f} to {tails[-1]:.1f} ms")
        return cls(tuple(lines), tuple(faults))


def _percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values is not above; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _row(values: Sequence[float], form: str) -> str:
    return " ".join(format(value, form) for value in values)


def _split(timed: Sequence[tuple[float, T]], begin: float, end: float) -> list[list[T]]:
    parts: list[list[T]] = [[] for _ in range(_PARTS)]
    for at, value in timed:
        number = int((at - begin) / (end - begin) * _PARTS)
        if 0 <= number < _PARTS:
            parts[number].append(value)
    return parts
