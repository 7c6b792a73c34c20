"""The wait URL."""

from __future__ import annotations

import asyncio
import json
import threading
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import sync_step
from durable_core.flow.env import Limits
from durable_core.flow.wait_url import PROXY_PARAMS, WaitRequest
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import Lab, event, lab, request, until


def waits(request: Request) -> Response:
    heard = sync_step.wait_for_event("w", event="go", timeout="1h")
    return Response.json({"heard": bool(heard)}, 201, {"x-own": "1"})


def started(process: Lab, **options: object) -> tuple[HTTPHandler, str]:
    """Start a run that waits; give its endpoint and wait URL."""
    endpoint = process.endpoint(waits, **options)
    return endpoint, "/it" + endpoint.handle(request()).headers["location"]


def with_params(url: str, **params: str | None) -> str:
    """Return the wait URL with other parameters; None drops one."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    query.update({f"durable-{name}": value or "" for name, value in params.items()})
    return "/it?" + urlencode({name: value for name, value in query.items() if value})


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


def test_hops() -> None:
    """A client is held, sent on at most five times with fresh tokens, then told to come back."""
    with lab() as process:
        endpoint, url = started(process)
        seen = {url}
        for hop in range(1, 6):
            response = endpoint.handle(request(url), max_wait=0.001)
            assert 303 == response.status
            assert "no-store" == response.headers["cache-control"]
            url = "/it" + response.headers["location"]
            assert f"durable-hop={hop}" in url
            seen.add(url)
        assert 6 == len(seen)
        last = endpoint.handle(request(url), max_wait=0.001)
        assert 202 == last.status
        assert "5" == last.headers["retry-after"]
        assert "no-store" == last.headers["cache-control"]
        assert "running" == json.loads(body_of(last))["status"]
        assert "durable-hop" not in last.headers["location"]

        process.durable.send(event("go"))
        final = process.follow(endpoint, endpoint.handle(request("/it" + last.headers["location"])))
        assert (201, "1", b'{"heard":true}') == (
            final.status,
            final.headers["x-own"],
            final.body,
        )


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ((), [("cache-control", "no-store"), ("referrer-policy", "no-referrer")]),
        (
            (("Cache-Control", "private, max-age=9"),),
            [("cache-control", "private, max-age=9"), ("referrer-policy", "no-referrer")],
        ),
    ],
)
def test_results_stay_with_the_client(
    own: tuple[tuple[str, str], ...], expected: list[tuple[str, str]]
) -> None:
    """No cache keeps what a token has opened, and no page it links to gets the token; unless the
    handler has said something else.
    """

    def handler(request: Request) -> Response:
        sync_step.wait_for_event("w", event="go", timeout="1h")
        return Response.text("secret", headers=own)

    with lab() as process:
        endpoint = process.endpoint(handler)
        handoff = endpoint.handle(request())
        process.durable.send(event("go"))
        got = process.follow(endpoint, handoff)

    fields = dict(expected)
    assert expected == [field for field in got.headers.items() if field[0] in fields]


@pytest.mark.parametrize("hop", ["-1", "x", "99999", "1e3", "\N{SUPERSCRIPT TWO}", "5"])
def test_nonsense_hops(hop: str) -> None:
    """A hop that is no small number counts as the first; a large one gets 202."""
    with lab() as process:
        endpoint, url = started(process)
        response = endpoint.handle(request(with_params(url, hop=hop)), max_wait=0.001)
    assert (202 if hop == "5" else 303) == response.status


def test_answers_at_once_when_the_run_ends() -> None:
    """Clients held in threads and in tasks are answered when the run ends, and may ask again."""
    with lab() as process:
        endpoint, url = started(process)
        answers: list[Response] = []

        def ask() -> None:
            answers.append(endpoint.handle(request(url), max_wait=20.0))

        async def ask_async() -> Response:
            return await endpoint.handle_async(request(url), max_wait=20.0)

        threads = [
            *[threading.Thread(target=ask) for _ in range(3)],
            threading.Thread(target=lambda: answers.append(asyncio.run(ask_async()))),
        ]
        for thread in threads:
            thread.start()
        until(lambda: process.durable.health()["waiting_clients"] == 4)
        process.durable.send(event("go"))
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        answers += [endpoint.handle(request(url)) for _ in range(2)]
        assert [(201, b'{"heard":true}')] * 6 == [(each.status, each.body) for each in answers]
        assert 0 == process.durable.health()["waiting_clients"]


def test_head() -> None:
    """HEAD asks as GET does, whatever methods the handler has."""
    with lab() as process:
        endpoint = process.endpoint(waits, methods=("POST",))
        first = endpoint.handle(request(method="POST"))
        process.durable.send(event("go"))
        url = "/it" + first.headers["location"]
        assert 201 == process.follow(endpoint, endpoint.handle(request(url, "HEAD"))).status
        assert 405 == endpoint.handle(request("/it", "HEAD")).status
        assert 405 == endpoint.handle(request(url, "PUT")).status


def test_bad_tokens() -> None:
    """A bad token gets the same answer whether or not there is such a run; so does a wrong run."""
    with lab() as process:
        endpoint, url = started(process)
        _, other = started(process)
        other_run = parse_qs(urlsplit(other).query)["durable-run"][0]
        token = parse_qs(urlsplit(url).query)["durable-token"][0]
        changed = token[:-2] + ("AA" if not token.endswith("AA") else "BB")
        answers = [
            endpoint.handle(request(bad))
            for bad in (
                with_params(url, token=changed),
                with_params(url, run="01ARZ3NDEKTSV4RRFFQ69G5FAV", token=changed),
                with_params(url, run="01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                with_params(url, run=other_run),
                with_params(url, token="garbage"),
                with_params(url, token="\N{SNOWMAN}"),
            )
        ]
    assert {403} == {answer.status for answer in answers}
    assert 1 == len({body_of(answer) for answer in answers[:4]})
    assert all(token not in body_of(answer).decode() for answer in answers)
    assert all("no-store" == answer.headers["cache-control"] for answer in answers)


@pytest.mark.parametrize("missing", ["run", "token"])
def test_missing_parameters(missing: str) -> None:
    """Either parameter alone is 400, and names both."""
    with lab() as process:
        endpoint, url = started(process)
        response = endpoint.handle(request(with_params(url, **{missing: None})))
    assert 400 == response.status
    assert b"durable-run" in body_of(response)
    assert b"durable-token" in body_of(response)


def test_expired_token() -> None:
    """A token opens its run for ``token_ttl``."""
    from support.harness import FakeClock

    clock = FakeClock()
    with lab(clock=clock, token_ttl="1h") as process:
        endpoint, url = started(process)
        clock.advance(3599)
        assert 303 == endpoint.handle(request(url), max_wait=0.001).status
        clock.advance(2)
        assert 403 == endpoint.handle(request(url), max_wait=0.001).status


def test_secrets_rotate() -> None:
    """The first key signs, all verify."""
    old, new = "o" * 16, "n" * 16
    with lab(secrets=[old]) as process:
        _, url = started(process)
        store = process.store
    with lab(store, secrets=[new, old]) as process:
        endpoint = process.endpoint(waits)
        assert 303 == endpoint.handle(request(url), max_wait=0.001).status
    with lab(store, secrets=[new]) as process:
        endpoint = process.endpoint(waits)
        assert 403 == endpoint.handle(request(url), max_wait=0.001).status


def test_run_that_is_gone() -> None:
    """When a run has been deleted, its wait URL answers 410."""
    from durable_core.ports import Prune

    with lab() as process:
        endpoint, url = started(process)
        process.durable.send(event("go"))
        process.follow(endpoint, endpoint.handle(request(url)))
        until(
            lambda: process.store.commit(
                [Prune(app="lab", runs_before=2**52, events_before=0, limit=10)], wait=1.0
            )[0]
        )
        response = endpoint.handle(request(url))
    assert 410 == response.status
    assert b"run-gone" in body_of(response)


def test_cancelled_run() -> None:
    """A cancelled run answers 410 to those who wait and those who come later."""
    with lab() as process:
        endpoint, url = started(process)
        [record] = process.records.list()
        assert process.durable.runs.cancel(record.run.id)
        assert not process.durable.runs.cancel(record.run.id)
        response = endpoint.handle(request(url))
    assert 410 == response.status
    assert b"run-cancelled" in body_of(response)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_too_many_waiting(asynchronous: bool) -> None:
    """Past the limit of waiting clients the answer is 503, at once."""
    with lab(limits=Limits(waiting_clients=2)) as process:
        endpoint, url = started(process)
        held = [
            threading.Thread(
                target=endpoint.handle, args=(request(url),), kwargs={"max_wait": 20.0}
            )
            for _ in range(2)
        ]
        for thread in held:
            thread.start()
        until(lambda: process.durable.health()["waiting_clients"] == 2)
        if asynchronous:
            response = asyncio.run(endpoint.handle_async(request(url), max_wait=20.0))
        else:
            response = endpoint.handle(request(url), max_wait=20.0)
        assert 503 == response.status
        assert "retry-after" in response.headers
        process.durable.send(event("go"))
        for thread in held:
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize(("text", "hop"), [(None, 0), ("3", 3), ("", 0), ("-1", 0), ("1000", 0)])
def test_what_a_request_asks(text: str | None, hop: int) -> None:
    """Nonsense counts as the first hop; the way back has the names and the rest of the query."""
    query = {"runId": "r1", "token": "t1"} | ({} if text is None else {"hop": text})
    wanted = WaitRequest.from_request(
        request(f"/wait?{urlencode(query)}"), PROXY_PARAMS, 2.5, (("lang", "fr"),)
    )

    assert ("r1", "t1", hop, 2500) == (
        wanted.run_id,
        wanted.token,
        wanted.hop,
        wanted.max_wait_ms,
    )
    assert "?runId=r1&token=t2&hop=1&lang=fr" == wanted.again("t2", 1)
    assert "?runId=r1&token=t2&lang=fr" == wanted.again("t2", 0)
