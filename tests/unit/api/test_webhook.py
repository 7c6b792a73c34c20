"""``on_complete=``: somebody is told that a run has ended."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import pytest

from durable_core import Durable, NonRetriableError, Request, endpoint_adapter, step
from durable_core.engines import EmbeddedEngine
from durable_core.errors import ConfigurationError, RetryAfterError
from durable_core.stores import MemoryStore
from durable_core.sync import step as sync_step
from durable_core.webhooks import Completed, Webhook
from support.harness import FakeClock, until

KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()
URL = "https://hooks.example/durable"
Start: TypeAlias = "Callable[..., App]"


class FakeResponse:
    http_version = "HTTP/1.1"

    def __init__(self, status: int, **headers: str) -> None:
        self.extensions: Any = {}
        self.status_code = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.is_closed = False

    def iter_bytes(self) -> Iterator[bytes]:
        raise AssertionError("the body of a receiver's answer is not read")

    def close(self) -> None:
        self.is_closed = True


class FakeClient:
    """A client whose receiver answers as it is told, in turn; then with 204.

    Attributes:
        sent: the requests: method, URL, headers and body.
    """

    def __init__(self, *answers: FakeResponse | Exception) -> None:
        self.sent: list[tuple[str, str, dict[str, str], bytes]] = []
        self._answers = list(answers)

    def build_request(self, method: str, url: str, **request: Any) -> Any:
        headers = {name.decode(): value.decode() for name, value in request["headers"]}
        return method, url, headers, request["content"]

    def send(self, request: Any, **options: Any) -> Any:
        assert {"stream": True, "follow_redirects": False} == options
        self.sent.append(request)
        answer = self._answers.pop(0) if self._answers else FakeResponse(204)
        if isinstance(answer, Exception):
            raise answer
        return answer


class App:
    """An application with one endpoint of each kind."""

    def __init__(self, store: Any, on_complete: Any, **options: Any) -> None:
        self.clock = FakeClock(int(time.time() * 1000))
        engine = EmbeddedEngine(store, clock=self.clock)
        self.durable: Durable[Any] = Durable(
            id="shop", endpoint_adapter=endpoint_adapter, engine=engine
        )

        def work(request: Request) -> int:
            if "fail" in request.query:
                raise NonRetriableError("private: no card")
            return 1

        @self.durable.endpoint(on_complete=on_complete, labels={"shop": "berlin"}, **options)
        def plain(request: Request) -> str:
            if "wait" in request.query:
                sync_step.wait_for_event("go", event="go", timeout="1h")
            sync_step.run("work", work, request) if "plain" not in request.query else None
            return "private: the result"

        @self.durable.endpoint(on_complete=on_complete, labels={"shop": "berlin"}, **options)
        async def coroutine(request: Request) -> str:
            if "wait" in request.query:
                await step.wait_for_event("go", event="go", timeout="1h")
            await step.run("work", work, request) if "plain" not in request.query else None
            return "private: the result"

        self.endpoints = {"def": plain, "async": coroutine}

    def ask(self, kind: str, query: str = "") -> str:
        """Have a run begin, and return its id."""
        known = {run.id for run in self.durable.runs.list()}
        request = Request(method="GET", url=f"http://localhost/?{query}")
        self.endpoints[kind].handle(request, max_wait=0.05)
        runs = self.durable.runs.list()
        [run] = [run for run in runs if run.id not in known and "on_complete" not in run.name]
        return run.id

    def told(self, run_id: str) -> str | None:
        """Return what has become of telling."""
        return self.durable.runs.get(run_id).completion


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that makes an application, on a store of its own."""
    with ExitStack() as stack:

        def started(on_complete: Any, **options: Any) -> App:
            app = App(options.pop("store", tmp_path / "db"), on_complete, **options)
            stack.callback(app.durable.stop)
            return app

        yield started


KINDS = pytest.mark.parametrize("kind", ["def", "async"])
STORES = pytest.mark.parametrize("store", [{}, {"store": MemoryStore()}], ids=["sqlite", "memory"])


@KINDS
@STORES
@pytest.mark.parametrize(
    ("query", "status"), [("", "completed"), ("plain", "completed"), ("fail", "failed")]
)
def test_a_signed_request(start: Start, kind: str, store: Any, query: str, status: str) -> None:
    """It names the run, and nothing that the run was asked, did or answered."""
    client = FakeClient()
    app = start(Webhook(URL, secret=SECRET, client=client), **store)
    run_id = app.ask(kind, query)
    until(lambda: app.told(run_id) == "completed")
    [(method, url, headers, body)] = client.sent
    run = app.durable.runs.get(run_id)
    assert ("POST", URL, "application/json") == (method, url, headers["content-type"])
    assert run.ended is not None
    assert {
        "type": f"run.{status}",
        "timestamp": run.ended.isoformat().replace("+00:00", "Z"),
        "data": {
            "run_id": run_id,
            "endpoint": run.function_id,
            "name": "GET /",
            "status": status,
            "key": None,
            "labels": {"shop": "berlin"},
        },
    } == json.loads(body)
    assert b"private" not in body
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert f"v1,{mac}" == headers["webhook-signature"]
    assert run.completion_run == headers["webhook-id"]


@KINDS
def test_a_cancelled_run(start: Start, kind: str) -> None:
    """It is told of as any other end."""
    client = FakeClient()
    app = start(Webhook(URL, secret=SECRET, client=client))
    run_id = app.ask(kind, "wait")
    until(lambda: app.durable.runs.get(run_id).status == "suspended")
    assert [] == client.sent
    app.durable.runs.cancel(run_id)
    until(lambda: app.told(run_id) == "completed")
    assert "run.cancelled" == json.loads(client.sent[0][3])["type"]


def test_it_is_tried_again(start: Start) -> None:
    """With the same id, after a pause, or when the receiver says; then the state is shown."""
    client = FakeClient(OSError("no route"), FakeResponse(302), FakeResponse(503, retry_after="50"))
    app = start(Webhook(URL, secret=SECRET, client=client))
    run_id = app.ask("def")
    for count, pause in ((1, 5), (2, 15), (3, 49)):
        until(lambda count=count: len(client.sent) == count)  # type: ignore[misc]
        until(lambda: app.told(run_id) == "suspended")
        app.clock.advance(pause)
    due = app.durable.next_due()
    assert due is not None
    assert 0 < due.timestamp() - app.clock.now() / 1000 <= 1
    assert 3 == len(client.sent)
    app.clock.advance(1)
    until(lambda: app.told(run_id) == "completed")
    assert 1 == len({headers["webhook-id"] for _, _, headers, _ in client.sent})


def test_a_receiver_that_wants_no_more(start: Start, caplog: Any) -> None:
    """410 ends it at once; the log says so, without the secret, and the run shows it."""
    app = start(Webhook(f"{URL}?token=t", secret=SECRET, client=FakeClient(FakeResponse(410))))
    run_id = app.ask("async")
    until(lambda: app.told(run_id) == "failed")
    assert f"was not told that run {run_id} has ended (completed), and will not be" in caplog.text
    assert "token=t" not in caplog.text
    assert SECRET not in caplog.text


def test_a_slow_receiver_does_not_take_all_threads(start: Start) -> None:
    """It gets four requests at a time, and the others wait their turn."""
    gate, told = threading.Event(), list[str]()

    def tell(completed: Completed) -> None:
        told.append(completed.run_id)
        gate.wait(20)

    app = start(tell)
    ids = [app.ask("def") for _ in range(6)]
    until(lambda: 4 == len(told))
    until(lambda: 2 == len(app.durable.runs.list(status="queued")))
    gate.set()
    until(lambda: all(app.told(run_id) == "completed" for run_id in ids))
    assert sorted(ids) == sorted(told)


def test_a_receiver_that_never_ends_its_answer(start: Start) -> None:
    """The attempt has failed after a while, and the next one is made."""
    gate, client = threading.Event(), FakeClient()
    answer, sent = client.send, list[object]()

    def send(request: Any, **options: Any) -> Any:
        sent.append(request)
        if len(sent) == 1:
            gate.wait(20)
        return answer(request, **options)

    client.send = send  # type: ignore[method-assign]
    app = start(Webhook(URL, secret=SECRET, client=client))
    with patch("durable_core.api.webhook._WHOLE_TIMEOUT", 0.05):
        run_id = app.ask("def")
        told = app.durable.runs.get(run_id).completion_run
        assert told is not None
        [failed] = until(lambda: app.durable.runs.history(told))
    assert "TimeoutError" in str(failed.error)
    app.clock.advance(60)
    until(lambda: app.told(run_id) == "completed")
    gate.set()


def test_a_retried_run_is_told_of_again(start: Start) -> None:
    """Each end is told of once, under an id of its own."""
    client = FakeClient()
    app = start(Webhook(URL, secret=SECRET, client=client))
    run_id = app.ask("def", "fail")
    until(lambda: app.told(run_id) == "completed")
    app.durable.runs.retry(run_id)
    until(lambda: 2 == len(client.sent))
    assert 2 == len({headers["webhook-id"] for _, _, headers, _ in client.sent})


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function(start: Start, is_async: bool) -> None:
    """It is called with the facts until it succeeds."""
    told: list[Completed] = []

    def tell(completed: Completed) -> None:
        told.append(completed)
        if len(told) == 1:
            raise RetryAfterError("later", 1.0)

    async def tell_async(completed: Completed) -> None:
        tell(completed)

    app = start(tell_async if is_async else tell)
    run_id = app.ask("def")
    until(lambda: 1 == len(told) and app.told(run_id) == "suspended")
    app.clock.advance(1)
    until(lambda: app.told(run_id) == "completed")
    assert [run_id, run_id] == [each.run_id for each in told]
    assert told[0] == told[1]
    assert ("completed", {"shop": "berlin"}) == (told[0].status, told[0].labels)


def test_a_process_that_dies_before_it_tells(tmp_path: Path) -> None:
    """What it has not told, another one tells: the end and the telling are stored at once."""
    first = App(tmp_path / "db", Webhook(URL, secret=SECRET, client=FakeClient(OSError("down"))))
    run_id = first.ask("def")
    until(lambda: first.told(run_id) == "suspended")
    first.durable.stop()
    client = FakeClient()
    second = App(tmp_path / "db", Webhook(URL, secret=SECRET, client=client))
    second.clock.advance(60)
    second.durable.start()
    until(lambda: second.told(run_id) == "completed")
    assert run_id == json.loads(client.sent[0][3])["data"]["run_id"]
    second.durable.stop()


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (301, {}, OSError),
        (400, {}, OSError),
        (410, {"retry_after": "1"}, NonRetriableError),
        (429, {"retry_after": "999999999"}, RetryAfterError),
        (503, {"retry_after": formatdate(time.time() + 60, usegmt=True)}, RetryAfterError),
        (503, {"retry_after": "soon"}, OSError),
    ],
)
def test_answers(status: int, headers: dict[str, str], error: type[Exception]) -> None:
    """2xx is success; everything else is a failure, and redirects are not followed."""
    answer = FakeResponse(status, **headers)
    webhook = Webhook(URL, secret=SECRET, client=FakeClient(answer))
    with pytest.raises(error) as raised:
        webhook.send(completed())
    assert error is type(raised.value)
    assert answer.is_closed


def completed() -> Completed:
    from datetime import UTC, datetime

    return Completed(
        id="d1",
        run_id="r1",
        endpoint="m:f",
        name="f",
        status="completed",
        ended=datetime(2026, 1, 2, tzinfo=UTC),
    )


def test_several_secrets() -> None:
    """Each signs, so that one can be replaced."""
    client = FakeClient()
    other = "whsec_" + base64.b64encode(b"o" * 24).decode()
    Webhook(URL, secret=[SECRET, other], client=client).send(completed())
    signatures = client.sent[0][2]["webhook-signature"].split()
    assert 2 == len(set(signatures))


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secrets may be there; a URL is then enough."""
    monkeypatch.setenv("DURABLE_WEBHOOK_SECRET", SECRET)
    durable: Durable[Any] = Durable(
        id="s", endpoint_adapter=endpoint_adapter, engine=EmbeddedEngine(MemoryStore())
    )
    durable.endpoint(on_complete=URL)(lambda request: "ok")


@pytest.mark.parametrize(
    "url", ["", "hooks.example", "/x", "ftp://a/x", "http://", "https://u:p@a/", "https://a/#b", 5]
)
def test_bad_urls(url: Any) -> None:
    """Refused when the webhook is made."""
    with pytest.raises(ConfigurationError, match="the URL of a webhook must be"):
        Webhook(url, secret=SECRET)


@pytest.mark.parametrize("secret", ["", "k" * 32, "whsec_", "whsec_a2s=", "whsec_\u00e4", 5, [""]])
def test_bad_secrets(secret: Any) -> None:
    """Refused when the webhook is made, by a message without the secret."""
    given: str | Sequence[str] = secret if isinstance(secret, (str, list)) else [secret]
    with pytest.raises(ConfigurationError, match="the secret of a webhook must be"):
        Webhook(URL, secret=given)


def test_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that nobody can verify is not sent."""
    monkeypatch.delenv("DURABLE_WEBHOOK_SECRET", raising=False)
    with pytest.raises(ConfigurationError, match="DURABLE_WEBHOOK_SECRET"):
        Webhook(URL)


def test_no_client() -> None:
    """Without the client distribution the error says what to install."""
    missing = patch("durable_core.api.webhook.find_spec", return_value=None)
    with missing, pytest.raises(ConfigurationError, match="install durable-client"):
        Webhook(URL, secret=SECRET)


def test_neither_url_nor_function() -> None:
    """Refused where the endpoint is defined."""
    with pytest.raises(ConfigurationError, match="on_complete must be a URL"):
        App(MemoryStore(), 5)


def test_what_is_no_client() -> None:
    """It is refused when the endpoint is made, and not at the end of the first run."""
    client: Any = 5
    with pytest.raises(ConfigurationError, match=r"Webhook\(client=\): client must have build_req"):
        Webhook("https://x.example", secret=SECRET, client=client)
