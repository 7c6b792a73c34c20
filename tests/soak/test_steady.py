"""The judgement of a steady soak."""

from __future__ import annotations

import os

from soak.steady import Sample, Steadiness

BEGIN, END = 100.0, 160.0


def samples(rss: list[float], fds: list[int]) -> dict[str, list[Sample]]:
    """Return one sample of a process in each sixth."""
    values = zip(rss, fds, strict=True)
    return {"p": [Sample(BEGIN + 10 * n + 5, *each) for n, each in enumerate(values)]}


def latencies(*sixths: float) -> list[tuple[float, float]]:
    """Return the times of three requests in each sixth, seconds."""
    return [(BEGIN + 10 * n + i, each) for n, each in enumerate(sixths) for i in (1, 2, 3)]


FLAT = samples([50.0] * 6, [10] * 6)
EVEN = latencies(*[0.01] * 6)


def test_what_is_steady() -> None:
    """Nothing is found; the report has a line for the process and one for the latencies."""
    steady = Steadiness.of(FLAT, EVEN, BEGIN, END)
    assert () == steady.faults
    assert (
        "p: RSS 50 50 50 50 50 50 MiB, descriptors 10 10 10 10 10 10",
        "three steps: p50 10.0 10.0 10.0 10.0 10.0 10.0 ms, p99 10.0 10.0 10.0 10.0 10.0 10.0 ms",
    ) == steady.lines


def test_growth_in_the_first_sixth_is_warming_up() -> None:
    """Memory and descriptors are compared from the second one on."""
    warm = samples([20.0, *[60.0] * 5], [5, *[40] * 5])
    assert () == Steadiness.of(warm, EVEN, BEGIN, END).faults


def test_memory_that_grows() -> None:
    """By more than 20 MiB."""
    growing = samples([50.0, 50, 55, 60, 65, 71], [10] * 6)
    assert ("the memory of p grew from 50 to 71 MiB",) == (
        Steadiness.of(growing, EVEN, BEGIN, END).faults
    )


def test_descriptors_that_leak() -> None:
    """By more than 10."""
    leaking = samples([50.0] * 6, [10, 10, 13, 16, 19, 21])
    assert ("the descriptors of p grew from 10 to 21",) == (
        Steadiness.of(leaking, EVEN, BEGIN, END).faults
    )


def test_latencies_that_rise() -> None:
    """By more than a fifth, from the first sixth to the last."""
    slower = Steadiness.of(FLAT, latencies(0.01, 0.1, 0.1, 0.1, 0.1, 0.013), BEGIN, END)
    assert ("p99 rose from 10.0 to 13.0 ms",) == slower.faults
    assert () == Steadiness.of(FLAT, latencies(*[0.01] * 5, 0.0119), BEGIN, END).faults


def test_a_sample_of_this_process() -> None:
    """It has memory and descriptors."""
    sample = Sample.of(os.getpid())
    assert sample.rss > 1
    assert sample.fds > 2
