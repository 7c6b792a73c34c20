"""Limits of what an application and its principals have in the store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.engine.quota import Quota
from durable_core.errors import HTTPError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.stores.memory import MemoryStore
from support.harness import Lab, lab, request, until


def nap(request: Request) -> str:
    sync_step.sleep("nap", "1h")
    return "done"


async def async_nap(request: Request) -> str:
    await step.sleep("nap", "1h")
    return "done"


def big(request: Request) -> str:
    return sync_step.run("big", lambda: "x" * 1000)


def who(request: Request) -> str | bool:
    return request.headers.get("x-user") or True


def asked(process: Lab, handler: Callable[[Request], Any], user: str = "", **options: Any) -> Any:
    """Return the answer to a request of a user."""
    endpoint = process.durable.endpoint(authorize=who, **options)(handler)
    return endpoint.handle(request(x_user=user) if user else request())


def quota_of(process: Lab) -> Quota:
    worker = process.engine.worker
    assert worker is not None
    return worker.quota


@pytest.mark.parametrize("handler", [nap, async_nap])
@pytest.mark.parametrize("user", ["", "amy"])
@pytest.mark.slow
def test_live_runs_of_the_application_are_bounded(
    handler: Callable[[Request], Any], user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Within a second of the limit new runs are refused, until some have ended; both is logged."""
    with lab(limits=Limits(live_runs=2)) as process:
        for _ in range(2):
            assert 302 == asked(process, handler, user).status
        until(lambda: quota_of(process).is_full)
        refused = asked(process, handler, user)
        process.durable.runs.cancel(process.records.list()[0].run.id)
        until(lambda: not quota_of(process).is_full)
        allowed = asked(process, handler, user)

    assert (503, "5") == (refused.status, refused.headers["retry-after"])
    assert b"too-many-runs" in refused.body
    assert 302 == allowed.status
    texts = [text for text in caplog.messages if "begin" in text]
    assert ["no new run begins: 2 runs have not ended (Limits.live_runs)"] == texts[:1]
    assert texts[1:] == ["new runs begin again"]


def test_stored_bytes_of_the_application_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Also those of runs that have ended."""
    with lab(limits=Limits(stored_bytes=100)) as process:
        assert 200 == asked(process, big).status
        until(lambda: quota_of(process).is_full)
        refused = asked(process, big)

    assert 503 == refused.status
    assert "(Limits.stored_bytes)" in caplog.text


@pytest.mark.parametrize(
    ("limits", "handler", "first"),
    [
        (Limits(principal_live_runs=1), nap, 302),
        (Limits(principal_live_runs=1), async_nap, 302),
        (Limits(principal_bytes=100), big, 200),
    ],
)
def test_a_principal_has_limits_of_its_own(
    limits: Limits,
    handler: Callable[[Request], Any],
    first: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Others, and those who are nobody in particular, are not concerned."""
    with lab(limits=limits) as process:
        assert first == asked(process, handler, "amy").status
        refused = until(lambda: (a := asked(process, handler, "amy")).status == 429 and a)
        others = [asked(process, handler, user).status for user in ("bob", "")]

    assert isinstance(refused, Response)
    assert "5" == refused.headers["retry-after"]
    assert [first, first] == others
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert 1 == len(errors)
    assert "no new run of principal 'amy' begins" in errors[0].getMessage()


def test_a_principal_is_the_same_in_a_replay() -> None:
    """It is stored with the run."""
    store = MemoryStore()

    def handler(request: Request) -> str:
        seen.append(request.principal)
        sync_step.sleep("nap", 0.05)
        return "done"

    seen: list[str | None] = []
    with lab(store=store) as process:
        asked(process, handler, "amy")
        until(lambda: process.records.list()[0].run.phase.ended)
        [record] = process.records.list()

    assert ["amy", "amy"] == seen
    assert "amy" == record.run.principal


@pytest.mark.parametrize("verdict", [5, "", "x" * 256, b"amy"])
def test_what_is_no_verdict(verdict: Any) -> None:
    """``authorize`` returns a bool, None, or the name of a principal."""
    with lab() as process, pytest.raises((TypeError, ValueError), match="authorize="):
        process.durable.endpoint(authorize=lambda request: verdict)(nap).handle(request())


def test_refusals_stay_refusals() -> None:
    """False, and an error for the client."""

    def refuse(request: Request) -> bool:
        raise HTTPError(401, "who are you?")

    with lab() as process:
        endpoint = process.durable.endpoint
        no = endpoint(authorize=lambda request: False, function_id="a")(nap).handle(request())
        who = endpoint(authorize=refuse, function_id="b")(nap).handle(request())

    assert [403, 401] == [no.status, who.status]
