"""The documents that the page is sent, and what its actions do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from durable_core import Event, NonRetriableError, Request, Response, RetryPolicy
from durable_core.errors import StoreError
from durable_core.sync import step, stream
from durable_dashboard import Dashboard
from durable_dashboard._documents import RunPosition, body_text, clip, preview, read_run, text_of
from support.harness import Lab, WatchedStore, lab, until


def trip(request: Request) -> Response:
    """Do what a run can do: a step, a sleep, a stream, a wait."""
    step.run("reserve", lambda: {"seat": "12A"})
    step.run("write", lambda: stream.push("Dear Anna"))
    step.sleep("nap", 0.01)
    event = step.wait_for_event("answer", event="trip/ok", match="data.trip", timeout="1h")
    return Response.json({"event": event and dict(event.data)}, 201, {"x-trip": "1"})


def declined(request: Request) -> None:
    """Fail in the second step."""
    step.run("check", lambda: None)
    step.run("charge", pay)


def pay() -> None:
    raise NonRetriableError("the card was declined")


@pytest.fixture
def process() -> Iterator[Lab]:
    with lab(WatchedStore(), retry=RetryPolicy(base="1ms", max="1ms"), debug=True) as process:
        yield process


def waiting(process: Lab) -> str:
    """Return the id of a run that waits for its event."""
    endpoint = process.endpoint(
        trip, function_id="trip", key=lambda request: "T3", labels=lambda request: {"kind": "air"}
    )
    endpoint.handle(
        Request(
            method="POST",
            url="http://host/trip?trip=T3",
            headers={"authorization": "Bearer 1", "x-a": "b", "content-md5": "1"},
            body=b'{"from": "here"}',
        )
    )
    [run] = process.durable.runs.list(endpoint="trip")
    until(lambda: [s.event for s in process.durable.runs.get(run.id).steps][-1:] == ["trip/ok"])
    return run.id


def failed(process: Lab) -> str:
    """Return the id of a run that has failed."""
    process.endpoint(declined, function_id="declined").handle(
        Request(method="GET", url="http://host/declined")
    )
    [run] = process.durable.runs.list(endpoint="declined")
    return run.id


def get(process: Lab, name: str, expected: int = 200, /, **query: object) -> Any:
    """Return a document, or the problem that is the answer."""
    response = ask(process, name, **query)
    assert expected == response.status, response.body
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def ask(process: Lab, name: str, /, **query: object) -> Response:
    url = f"http://localhost/_api/{name}?{urlencode(query)}"
    return Dashboard(process.durable).handle(Request(method="GET", url=url, client="127.0.0.1"))


def act(process: Lab, name: str, body: object, status: int = 200) -> Any:
    """Have something done, and return the answer."""
    response = Dashboard(process.durable).handle(
        Request(
            method="POST",
            url=f"http://localhost/_api/{name}",
            headers={"x-durable-action": "1", "content-type": "application/json"},
            body=json.dumps(body).encode(),
            client="127.0.0.1",
        )
    )
    assert status == response.status, response.body
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_runs(process: Lab) -> None:
    """They are listed newest first, with what the list shows of them, in pages."""
    ids = [waiting(process), failed(process)]
    found = get(process, "runs")
    newest = found["runs"][0]

    assert ids[::-1] == [run["id"] for run in found["runs"]]
    assert found["more"] is None
    assert ("failed", "declined", None, {}, 1) == (
        newest["status"],
        newest["endpoint"],
        newest["key"],
        newest["labels"],
        newest["attempts"],
    )
    assert newest["started"] <= newest["ended"] <= found["now"]
    first = get(process, "runs", limit=1)
    assert ids[1] == first["more"]
    assert [ids[0]] == [r["id"] for r in get(process, "runs", cursor=first["more"])["runs"]]


def test_each_filter_of_the_list(process: Lab) -> None:
    """Status, endpoint, key, label and time; all conditions must hold."""
    trip_id, failed_id = waiting(process), failed(process)
    now = round(datetime.now(UTC).timestamp() * 1000)

    def ids(**query: object) -> list[str]:
        return [run["id"] for run in get(process, "runs", **query)["runs"]]

    assert [trip_id] == ids(status="suspended") == ids(key="T3") == ids(label="kind=air")
    assert [failed_id] == ids(status="failed") == ids(endpoint="declined")
    assert [failed_id, trip_id] == ids(since=now - 60_000, until=now + 60_000) == ids(status="")
    assert (
        [] == ids(since=now + 60_000) == ids(until=now - 60_000) == ids(status="failed", key="T3")
    )


@pytest.mark.parametrize(
    "query",
    [
        {"status": "x"},
        {"label": "kind"},
        {"since": "yesterday"},
        {"until": "9" * 30},
        {"limit": "0"},
        {"limit": "201"},
        {"limit": "0001000"},
        {"limit": "1" * 5_000},
        {"limit": "-1"},
    ],
    ids=str,
)
def test_a_filter_of_another_form(process: Lab, query: dict[str, str]) -> None:
    """It is a bad request, which says what is wrong."""
    assert get(process, "runs", 400, **query)["detail"]


def test_a_run(process: Lab) -> None:
    """With its steps, what it waits for and until when; without the values of steps."""
    found = get(process, "run", id=waiting(process))
    steps = {each["name"]: each for each in (*found["finished"], *found["begun"])}
    wait = steps["answer"]

    assert ["reserve", "write", "nap"] == [each["name"] for each in found["finished"]]
    assert ("waiting", "trip/ok", 'data.trip = "T3"') == (
        wait["status"],
        wait["event"],
        wait["match"],
    )
    assert 3_590_000 < wait["due"] - found["now"] <= 3_600_000
    assert wait["started"] is not None
    assert ({"kind": "air"}, "T3", "suspended") == (
        found["run"]["labels"],
        found["run"]["key"],
        found["run"]["status"],
    )
    assert "12A" not in json.dumps(found)


def test_what_failed(process: Lab) -> None:
    """Each failed attempt of a step and of the handler, with its error; the trace on demand."""
    run_id = failed(process)
    found = get(process, "run", id=run_id)
    [check, charge] = found["finished"]
    values = get(process, "step", id=run_id, step="charge")

    assert [] == check["failures"]
    [attempt] = charge["failures"]
    assert (1, None, "NonRetriableError: the card was declined") == (
        attempt["number"],
        attempt["retry"],
        attempt["error"],
    )
    assert "the card was declined" in found["failures"][0]["error"]
    assert "the card was declined" in found["run"]["error"]
    assert values["trace"].startswith("Traceback")
    assert values["result"] is None


def test_the_values_of_a_step(process: Lab) -> None:
    """A result that is short as a whole; a long one in part, and as a whole to be saved."""

    def handler(request: Request) -> None:
        step.run("large", lambda text: {"text": text}, "x" * 100_000)

    process.endpoint(handler, record_arguments=True).handle(
        Request(method="GET", url="http://host/it")
    )
    run_id = process.durable.runs.list()[0].id
    values = get(process, "step", id=run_id, step="large")

    assert (20_000, True) == (len(values["result"]["text"]), values["result"]["cut"])
    assert values["result"]["size"] > 100_000
    whole = ask(process, "value", id=run_id, step="large", part="result")
    assert isinstance(whole.body, bytes)
    assert {"text": "x" * 100_000} == json.loads(whole.body)
    assert "attachment" in whole.headers["content-disposition"]
    assert values["arguments"] is not None
    assert get(process, "value", 400, id=run_id, step="large", part="other")
    assert get(process, "step", 404, id=run_id, step="small")


def test_request_and_response(process: Lab) -> None:
    """As they came and as clients get them; credentials are named, and not known."""
    run_id = waiting(process)
    request = get(process, "request", id=run_id)
    assert ("POST", "http://host/trip?trip=T3") == (request["method"], request["url"])
    assert [["x-a", "b"], ["content-md5", "1"]] == request["headers"]
    assert ["authorization"] == request["notStored"]
    assert {"text": '{"from": "here"}', "size": 16, "cut": False} == request["body"]
    assert {"response": None, "kept": True} == get(process, "response", id=run_id)
    assert b'{"from": "here"}' == ask(process, "body", id=run_id, part="request").body
    assert get(process, "body", 404, id=run_id, part="response")

    process.durable.send(Event("trip/ok", {"trip": "T3"}))
    until(lambda: process.durable.runs.get(run_id).ended)
    response = get(process, "response", id=run_id)["response"]
    assert (201, ["x-trip", "1"]) == (response["status"], response["headers"][0])
    assert '{"event":{"trip":"T3"}}' == response["body"]["text"]
    whole = ask(process, "body", id=run_id, part="response")
    assert (b'{"event":{"trip":"T3"}}', "application/octet-stream") == (
        whole.body,
        whole.headers["content-type"],
    )


def test_bodies_that_are_not_stored(process: Lab) -> None:
    """They are shown as such, and not as empty ones."""

    def handler(request: Request) -> str:
        step.run("a", int)
        return "secret"

    process.endpoint(handler, omit_request_body=True, omit_response_body=True).handle(
        Request(method="POST", url="http://host/it", body=b"secret")
    )
    run_id = process.durable.runs.list()[0].id

    assert get(process, "request", id=run_id)["body"] is None
    assert not get(process, "response", id=run_id)["kept"]
    assert "not stored" in get(process, "body", 404, id=run_id, part="request")["detail"]


@pytest.mark.parametrize("name", ["run", "step", "request", "response", "value", "body", "stream"])
def test_no_such_run(process: Lab, name: str) -> None:
    """It is 404 wherever a run is named, and 400 where none is."""
    query = {"step": "x", "part": "request" if name == "body" else "result"}

    assert get(process, name, 404, id="nobody", **query)["detail"]
    assert "'id' is missing" in get(process, name, 400, **query)["detail"]


def test_the_overview(process: Lab) -> None:
    """How the application is doing: runs, failures and why, events and what they woke, limits."""
    run_id, failed_id = waiting(process), failed(process)
    process.durable.send([Event("nobody/cares"), Event("trip/ok", {"trip": "T3"})])
    until(lambda: process.durable.runs.get(run_id).ended)
    found = get(process, "overview")
    [event, other] = found["events"]
    endpoints = {each["id"]: each for each in found["endpoints"]}

    assert (2, 1) == (found["begun"], found["failed"])
    assert 2 == sum(b.get("completed", 0) + b.get("failed", 0) for b in found["chart"])
    assert [failed_id] == [run["id"] for run in found["failures"]]
    assert "the card was declined" in found["failures"][0]["error"]
    assert ("trip/ok", [run_id], []) == (event["name"], event["woke"], other["woke"])
    assert ["lab"] == [each["app"] for each in found["processes"]]
    assert found["processes"][0]["leaseUntil"] > found["now"]
    assert (1, 1) == (endpoints["declined"]["begun"], endpoints["declined"]["failed"])
    assert found["started"]
    assert found["commits"] > 0
    assert (0, None) == (found["waitingClients"], found["oldestDue"])


def test_a_process_without_the_code(process: Lab) -> None:
    """Endpoints are then those of the runs, and nothing is known of work that others do."""
    waiting(process)
    looking = Lab(process.durable.engine.store)
    found = get(looking, "overview")

    assert [{"id": "trip", "begun": 1, "failed": 0}] == found["endpoints"]
    assert (False, None, None) == (
        found["started"],
        found["commitSeconds"],
        found["waitingClients"],
    )
    assert not looking.durable.health()["started"]


def test_cancel(process: Lab) -> None:
    """The run ends, for the reason that its clients are told; a second time it cannot."""
    run_id = waiting(process)

    assert {"done": "cancelled"} == act(process, "cancel", {"id": run_id, "reason": "no money"})
    run = process.durable.runs.get(run_id)
    assert ("cancelled", "no money") == (run.status, run.cancel_reason)
    assert "had ended" in act(process, "cancel", {"id": run_id}, 409)["detail"]
    assert act(process, "cancel", {"id": "nobody"}, 404)
    assert (
        "1000 characters"
        in act(process, "cancel", {"id": run_id, "reason": "x" * 1001}, 400)["detail"]
    )


def test_retry(process: Lab) -> None:
    """A run that failed goes on; one that has not cannot."""
    run_id = failed(process)

    assert {"done": "retried"} == act(process, "retry", {"id": run_id})
    until(lambda: process.durable.runs.get(run_id).status == "failed")
    assert "has not failed" in act(process, "retry", {"id": waiting(process)}, 409)["detail"]


def test_resume_with_another_input(process: Lab) -> None:
    """A new run begins from the step, asked what the text says; the rest of the request stays."""
    run_id = waiting(process)
    new = act(process, "resume", {"id": run_id, "step": "write", "body": '{"from": "there"}'})["id"]
    request = process.durable.runs.request(new)

    assert (b'{"from": "there"}', "http://host/trip?trip=T3", "POST") == (
        request.body,
        request.url,
        request.method,
    )
    assert frozenset({"authorization"}) == request.headers.withheld
    assert ("17", None) == (request.headers["content-length"], request.headers.get("content-md5"))
    same = act(process, "resume", {"id": run_id, "step": "write"})["id"]
    assert b'{"from": "here"}' == process.durable.runs.request(same).body
    assert "no step" in act(process, "resume", {"id": run_id, "step": "x"}, 409)["detail"]
    for wrong in (1, "half a character: \ud800"):
        assert act(process, "resume", {"id": run_id, "step": "write", "body": wrong}, 400)


def test_send(process: Lab) -> None:
    """The event ends the wait that it fits."""
    run_id = waiting(process)

    assert act(process, "send", {"name": "trip/ok", "data": {"trip": "T3"}})["id"]
    until(lambda: process.durable.runs.get(run_id).status == "completed")
    refused: list[object] = [{"name": ""}, {"name": "x", "data": []}, {"name": "x" * 256}, {}, []]
    refused.append({"name": "x", "data": {"a": "\ud800"}})
    for wrong in refused:
        assert act(process, "send", wrong, 400)["detail"]
    large = {"name": "x", "data": {"a": "x" * 300_000}}
    assert "at most" in act(process, "send", large, 413)["detail"]


def test_signal(process: Lab) -> None:
    """It goes to the run that waits for it; without one nothing is sent."""

    def handler(request: Request) -> None:
        step.wait_for_signal("go", signal="start", timeout="1h")

    process.endpoint(handler).handle(Request(method="GET", url="http://host/it"))
    [run] = process.durable.runs.list()
    until(lambda: process.durable.runs.get(run.id).steps)

    assert {"id": run.id} == act(process, "signal", {"name": "start", "data": 7})
    until(lambda: process.durable.runs.get(run.id).status == "completed")
    assert "no run waits" in act(process, "signal", {"name": "start"}, 409)["detail"]
    assert "surrogate" in act(process, "signal", {"name": "start", "data": "\ud800"}, 400)["detail"]


@pytest.mark.parametrize("name", ["cancel", "retry", "resume", "send", "signal"])
@pytest.mark.parametrize("value", ["\ud800", "", 7, None, ["x"]], ids=repr)
def test_an_action_of_another_form(process: Lab, name: str, value: object) -> None:
    """It is a bad request, whatever stands for the run, the step or the name."""
    assert act(process, name, {"id": value, "name": value, "step": value}, 400)["detail"]


def test_a_store_that_cannot_answer(process: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 503, and says why."""

    def broken(*args: object, **options: object) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(process.durable.engine.store, "list", broken)

    assert "the disk is gone" == get(process, "runs", 503)["detail"]


def test_steps_are_sent_once(process: Lab) -> None:
    """Whoever has some steps gets those that are new; after a retry all of them again."""
    run_id = failed(process)
    whole, position = read_run(process.durable, run_id)
    again, same = read_run(process.durable, run_id, RunPosition.parse(str(position)))

    assert (0, ["check", "charge"]) == (whole["from"], [s["name"] for s in whole["finished"]])
    assert (2, [], position) == (again["from"], again["finished"], same)
    process.durable.runs.retry(run_id)
    until(lambda: process.durable.runs.get(run_id).status == "failed")
    after, _ = read_run(process.durable, run_id, position)
    assert 0 == after["from"]


@pytest.mark.parametrize("text", [None, "", "x", "1", "1.x", "-1.2", "9" * 400 + ".1"])
def test_a_position_of_another_form(text: str | None, process: Lab) -> None:
    """It is the beginning: a browser sends what it was given, and others anything."""
    document, _ = read_run(process.durable, failed(process), RunPosition.parse(text))

    assert 0 == document["from"]


class _Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("it has no words")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ({1, 2}, '"{1, 2}"'),
        ({"a": _Unspeakable()}, "<dict, whose repr() fails>"),
        (10**5_000, "<int, whose repr() fails>"),
    ],
    ids=["key", "set", "repr", "number"],
)
def test_values_of_other_codecs(value: object, text: str) -> None:
    """What has no form in JSON is shown by its ``repr()``; what has none of that, by its type."""
    assert text == text_of(value)


def test_texts_are_bounded() -> None:
    """Whatever users store, a document stays small and is JSON."""
    cut = preview({"a": ["\ud800", float("nan"), object()] * 10_000})

    assert (20_000, True) == (len(str(cut["text"])), cut["cut"])
    assert json.dumps(cut)
    assert "aa…" == clip("aaaaa", 3)
    assert {"text": None, "size": 2, "cut": False} == body_text(b"\xff\x00")
    assert {"text": None, "size": 3, "cut": False} == body_text(b"a\0b")
    long = body_text("é".encode() * 60_000)
    assert ("é" * 20_000, True, 120_000) == (long["text"], long["cut"], long["size"])
