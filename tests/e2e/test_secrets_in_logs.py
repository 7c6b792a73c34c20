"""What clients send is in no line of the log, whatever becomes of their requests."""

from __future__ import annotations

import http.client
import json
import logging
from typing import Any

import pytest

import durable_asyncio
import durable_wsgi
from durable_core import Durable, Event, NonRetriableError, Request
from durable_core.http.headers import SENSITIVE_HEADERS
from durable_core.stores import MemoryStore
from durable_core.sync import step, stream

#: Stands for what nobody may read, in each place where a client may put it.
MARK = "hush-hush"
BODY = json.dumps({"password": MARK, "key": MARK}).encode()


def application(kit: Any) -> tuple[Durable[Any], Any]:
    """Return a durable, and what serves its endpoints by an adapter."""
    adapter: Any = kit.endpoint_adapter
    durable = Durable(id="quiet", endpoint_adapter=adapter, store=MemoryStore())

    def work(request: Request) -> object:
        asked = request.json()
        step.run("result", lambda value: stream.push(value), asked)
        step.wait_for_event("event", event="go", match="data.key", timeout="1h")
        step.wait_for_signal("signal", signal="answer", timeout="1h")
        return asked

    def broken(request: Request) -> None:
        step.run("result", lambda value: value, request.body.decode())
        raise NonRetriableError("it does not work")

    def refuse(request: Request) -> bool:
        return False

    def crash(request: Request) -> bool:
        raise RuntimeError("the check is broken")

    return durable, kit.app(
        durable,
        {
            "POST /work": durable.endpoint(function_id="work", allow_cancel=True)(work),
            "POST /broken": durable.endpoint(function_id="broken", retries=0)(broken),
            "POST /refused": durable.endpoint(function_id="refused", authorize=refuse)(broken),
            "POST /crashing": durable.endpoint(function_id="crashing", authorize=crash)(broken),
            "POST /events": durable.events_endpoint(event_key=MARK),
            "GET /results": durable.endpoint_proxy(),
        },
    )


@pytest.mark.parametrize("kit", [durable_wsgi, durable_asyncio], ids=["wsgi", "asyncio"])
def test_no_line_has_what_a_client_has_sent(kit: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No query, body, credential, key, token, result or event; at INFO and above."""
    caplog.set_level(logging.INFO)
    durable, served = application(kit)
    statuses: list[int] = []
    with kit.create_endpoint_server(served).listen() as server:

        def ask(method: str, target: str, body: bytes | None = None, **fields: str) -> str:
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            headers = dict.fromkeys([*SENSITIVE_HEADERS, "x-other"], MARK) | fields
            client.request(method, target, body, headers)
            answer = client.getresponse()
            answer.read()
            client.close()
            statuses.append(answer.status)
            return answer.headers.get("location") or ""

        location = ask("POST", f"/work?token={MARK}", BODY, **{"idempotency-key": f'"{MARK}"'})
        query = location.partition("?")[2]
        token = query.partition("durable-token=")[2].partition("&")[0]
        [run] = durable.runs.list()
        proxied = f"/results?runId={run.id}&token={token}"
        for path in (f"/work?{query}&durable-status", f"/work?{query}x", proxied):
            ask("GET", path, prefer="wait=0")
        for path in ("broken", "refused", "crashing"):
            ask("POST", f"/{path}?token={MARK}", BODY)
        ask(
            "POST",
            f"/events?token={MARK}",
            b'[{"name": "go", "data": {"key": "hush-hush"}}]',
            authorization=f"Bearer {MARK}",
        )
        ask("POST", f"/events?token={MARK}", b'{"hush-hush": 1}', authorization=f"Bearer {MARK}")
        ask("POST", "/work", b"{" + MARK.encode())
        ask("GET", f"/{MARK}-path-is-logged?token={MARK}")
        durable.send(Event("go", {"key": MARK}))
        durable.signal("answer", MARK)
        ask("DELETE", f"/work?{query}")
        durable.runs.cancel(run.id, reason=MARK)

    text = caplog.text.replace(f"{MARK}-path-is-logged", "")
    assert set() == {200, 202, 303, 400, 403, 404, 500} - set(statuses), statuses
    assert [] == [line for line in text.splitlines() if MARK in line or token in line]
    assert "/work" in text  # requests are logged
    assert len(token) > 40
