"""A store that encrypts what users wrote."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from durable_core.api.run import run
from durable_core.api.step import step, sync_step
from durable_core.api.stream import sync_stream
from durable_core.codec.records import callback_digest
from durable_core.errors import ConfigurationError, EncryptionKeyError, StepError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event, StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Pending
from durable_core.model.stream import ChunkBatch, Pushed, StoredStream
from durable_core.ports import (
    Begin,
    Cancel,
    ChannelWrite,
    Checkpoint,
    ClaimedRun,
    Deliver,
    Delivery,
    Fork,
    IdempotencyKey,
    NewRun,
    RunRecord,
    SendEvents,
    StoredRequest,
    StoredResult,
    Write,
    messages,
)
from durable_core.stores import EncryptedStore, MemoryStore, SQLiteStore
from durable_core.stores.encrypted import _SEALED, Cipher
from support.harness import FakeClock, Lab, WatchedStore, lab, request, until

MARK = "PLAINTEXTMARK"
MATCH_KEY = b"m" * 16


class Gcm:
    """A cipher whose tokens are any bytes."""

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(128))

    def encrypt(self, data: bytes, /) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, data, None)

    def decrypt(self, token: bytes, /) -> bytes:
        return self._cipher.decrypt(token[:12], token[12:], None)


def fernet() -> Fernet:
    return Fernet(Fernet.generate_key())


def encrypted(store: Any, **keys: Cipher) -> EncryptedStore:
    return EncryptedStore(store, keys=keys or {"k1": fernet()}, match_key=MATCH_KEY)


def with_mark(text: str) -> str:
    return f"{text} {MARK}"


def fail() -> None:
    raise LookupError(with_mark("nothing"))


def undo(value: str) -> None:
    raise ValueError(with_mark(value))


def everything(request: Request) -> Response:
    """Do all that stores something."""
    sync_stream.push({"outside": MARK})
    sync_step.options(undo=undo).run("reserve", with_mark, request.query["cart"])
    sync_step.run("stream", lambda: sync_stream.push({"inside": MARK}))
    with contextlib.suppress(StepError):
        sync_step.options(retries=0).run("fails", fail)
    sync_step.send_event("tell", Event("told", {"to": MARK}, id="e1"))
    first = sync_step.wait_for_event("cart", event="cart", match="data.cart", timeout="1h")
    answer = sync_step.wait_for_event(
        "approval", event="approved", if_={"data.by.name": MARK}, timeout="1h"
    )
    assert first is not None
    assert answer is not None
    if request.query.get("fail"):
        raise RuntimeError(with_mark("the end"))
    return Response.json(dict(answer.data), headers=(("x-mark", MARK),))


async def everything_async(request: Request) -> Response:
    await step.run("reserve", with_mark, request.query["cart"])
    first = await step.wait_for_event("cart", event="cart", match="data.cart", timeout="1h")
    answer = await step.wait_for_event(
        "approval", event="approved", if_={"data.by.name": MARK}, timeout="1h"
    )
    assert first is not None
    assert answer is not None
    return Response.json(dict(answer.data), headers=(("x-mark", MARK),))


def asked(end: str = "") -> Request:
    return request(
        f"/{MARK}?cart={MARK}{end}", "POST", f"body {MARK}".encode(), x_mark=MARK, cookie=MARK
    )


def leaks(folder: Path) -> list[str]:
    """Return the files with the mark in them."""
    return [file.name for file in folder.rglob("*") if file.is_file() and has_mark(file)]


def has_mark(file: Path) -> bool:
    return MARK.encode() in file.read_bytes()


def approve(process: Lab) -> None:
    """Send for each wait an event that does not end it, then the one that does."""
    wrong: dict[str, str]
    for step_id, name, wrong in (("cart", "cart", {"cart": "x"}), ("approval", "approved", {})):
        await_step(process, step_id)
        process.durable.send(Event(name, {"by": {"name": "nobody"}, **wrong}))
        process.durable.send(Event(name, {"by": {"name": MARK}, "cart": MARK}))


def await_step(process: Lab, step_id: str) -> None:
    until(lambda: step_id in waits(process))


def waits(process: Lab) -> list[str]:
    """Return the names of the waits of all runs."""
    records = [process.records.get(each.run.id) for each in process.records.list()]
    return [pending.op.name for each in records for pending in each.pending if pending.event]


@pytest.mark.parametrize(
    ("handler", "make", "end"),
    [(everything, fernet, ""), (everything, Gcm, "&fail=1"), (everything_async, fernet, "")],
)
def test_nothing_is_in_the_files(handler: Any, make: Any, end: str, tmp_path: Path) -> None:
    """After a run that used everything, no file of the store has a text of the user's in it."""
    store = encrypted(SQLiteStore(tmp_path / "store.db"), k1=make())
    with lab(store) as process:
        endpoint = process.endpoint(
            handler, record_arguments=True, store_headers=("cookie",), retries=0, name=MARK
        )
        first = endpoint.handle(asked(end))
        approve(process)
        last = process.follow(endpoint, first)
        assert [] == leaks(tmp_path)
        [record] = process.records.list()
        shown = process.durable.runs.get(record.run.id)
        assert MARK in repr(shown)
        assert MARK in shown.name

    assert [] == leaks(tmp_path)
    failed = bool(end) and handler is everything
    assert (500 if failed else 200) == last.status
    if not failed:
        assert isinstance(last.body, bytes)
        assert MARK.encode() in last.body
        assert MARK == last.headers["x-mark"]


def test_what_others_say_to_a_run(tmp_path: Path) -> None:
    """Signals, callbacks, and what runs and their children give each other, is encrypted."""
    urls: list[str] = []

    def child(request: Request) -> dict[str, str]:
        return {"card": sync_step.run("card", with_mark, request.text())}

    with lab(encrypted(SQLiteStore(tmp_path / "store.db")), public_url="http://test") as process:
        invoked = process.endpoint(child, function_id="child")

        def parent(request: Request) -> list[str]:
            signal = sync_step.wait_for_signal("signal", signal="go", timeout="1h")
            sync_step.run("url", urls.append, run.callback_url("callback"))
            callback = sync_step.wait_for_callback("callback", timeout="1h")
            answer = sync_step.invoke("child", invoked, {"card": MARK})
            assert signal is not None
            assert callback is not None
            assert isinstance(answer.body, bytes)
            return [str(signal.data), callback.text(), answer.body.decode()]

        endpoint = process.endpoint(parent, function_id="parent")
        first = endpoint.handle(request())
        until(lambda: process.durable.signal("go", {"by": MARK}))
        url = until(lambda: urls[0] if urls else "")
        until(
            lambda: (
                endpoint.handle(Request(method="POST", url=url, body=MARK.encode())).status < 300
            )
        )
        last = process.follow(endpoint, first)

        assert isinstance(last.body, bytes)
        assert 4 == last.body.count(MARK.encode())  # the child gives back one of its own
        assert [] == leaks(tmp_path)
        again = endpoint.handle(Request(method="POST", url=url, body=MARK.encode()))
        assert 200 == again.status
        other = endpoint.handle(Request(method="POST", url=url, body=b"no"))
        assert 409 == other.status
    assert [] == leaks(tmp_path)
    guessed = callback_digest(Request(method="POST", url=url, body=MARK.encode()))
    assert guessed.encode() not in b"".join(
        file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    )


def test_clear_text_would_be_found(tmp_path: Path) -> None:
    """The search of the test above finds the mark where nothing is encrypted."""
    with lab(SQLiteStore(tmp_path / "store.db")) as process:
        process.endpoint(everything).handle(asked())
        until(lambda: waits(process))
        assert leaks(tmp_path)


def test_a_stream_between_processes(tmp_path: Path) -> None:
    """What a running step streams to another process is encrypted in the file between them."""
    cipher = fernet()
    path = tmp_path / "store.db"
    with lab(encrypted(SQLiteStore(path), k1=cipher)) as one:
        store, other = one.store, encrypted(SQLiteStore(path), k1=cipher)
        assert isinstance(store, EncryptedStore)
        one.durable.start()
        told = Pushed(text=f'"{MARK}"', index=0)
        [written] = store.channel.write([ChannelWrite(run_id="r", epoch=1, events=[told], done=0)])
        [execution] = other.channel.executions(["r"])
        read = [event for _, event in other.channel.read(execution, 0, 10)]

        assert written
        assert told in read
        assert (tmp_path / "store.db-live").exists()
        assert [] == leaks(tmp_path)
        other.channel.remove([("r", 1)])
        other.close()


def sleeping(request: Request) -> str:
    sync_step.run("first", str, MARK)
    sync_step.sleep("nap", "1h")
    return with_mark("done")


def test_old_keys_still_read(tmp_path: Path) -> None:
    """After a rotation, what the old key has encrypted is read, and the new one encrypts."""
    old, new = fernet(), fernet()
    path, clock = tmp_path / "store.db", FakeClock()
    with lab(encrypted(SQLiteStore(path), old=old), clock=clock) as before:
        first = before.endpoint(sleeping).handle(asked())
    clock.advance(3600)
    rotated = EncryptedStore(path, keys={"new": new, "old": old}, match_key=MATCH_KEY)
    with lab(rotated, clock=clock) as after:
        last = after.follow(after.endpoint(sleeping), first)

    assert with_mark("done").encode() in bytes(last.body)  # type: ignore[arg-type]
    whole = path.read_bytes()
    assert b"durable:sealed:new:" in whole
    assert b"durable:sealed:old:" in whole


@pytest.mark.parametrize("other", ["without keys", "another key", "the same id"])
def test_a_process_without_the_key_leaves_the_run_alone(
    other: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, counts as no attempt and no crash, and goes on where the key is."""
    cipher, inner, clock = fernet(), WatchedStore(), FakeClock()
    with lab(encrypted(inner, k1=cipher), clock=clock) as before:
        first = before.endpoint(sleeping).handle(asked())
    clock.advance(3600)
    keys: Mapping[str, Any] = {"another key": {"k2": fernet()}, "the same id": {"k1": fernet()}}
    store = inner if other == "without keys" else encrypted(inner, **keys[other])

    with lab(store, clock=clock) as wrong:
        wrong.endpoint(sleeping)
        wrong.durable.start()
        until(lambda: "it is left to other processes" in caplog.text)
        until(lambda: inner.list("lab", limit=1)[0].owner is None)
        for _ in range(2):
            clock.advance(11)
            wrong.poke()
            until(lambda: inner.list("lab", limit=1)[0].owner is None)
        [record] = inner.list("lab", limit=1)
    assert (Phase.SUSPENDED, 0, 0) == (
        record.run.phase,
        record.run.failures,
        record.run.crash_count,
    )
    assert 1 == caplog.text.count("it is left to other processes")

    clock.advance(11)
    with lab(encrypted(inner, k1=cipher), clock=clock) as after:
        last = after.follow(after.endpoint(sleeping), first)
    assert 200 == last.status


@pytest.mark.parametrize("with_keys", [False, True])
def test_a_client_that_waits_where_the_key_is_not(with_keys: bool) -> None:
    """It is told to come again, as for a store that does not answer; the log has the reason."""
    inner, clock = WatchedStore(), FakeClock()
    with lab(encrypted(inner), clock=clock) as before:
        endpoint = before.endpoint(sleeping)
        first = endpoint.handle(asked())
        until(lambda: inner.list("lab", limit=1)[0].owner is None)
        clock.advance(3600)
        before.poke()
        before.follow(endpoint, first)
    store: Any = encrypted(inner, k2=fernet()) if with_keys else inner
    with lab(store, clock=clock) as other:
        answer = other.endpoint(sleeping).handle(request("/it" + first.headers["location"]))
    assert 503 == answer.status


def test_reading_without_the_key() -> None:
    """``runs.get`` raises an error that names the key; a list shows the endpoint for the label."""
    inner, clock = MemoryStore(), FakeClock()
    with lab(encrypted(inner, k1=fernet()), clock=clock) as before:
        before.endpoint(sleeping).handle(asked())
        [record] = before.records.list()
    with lab(encrypted(inner, k2=fernet())) as other:
        [listed] = other.durable.runs.list()
        assert ("it", record.run.id) == (listed.name, listed.id)
        with pytest.raises(EncryptionKeyError, match="'k1', which is not among keys="):
            other.durable.runs.get(record.run.id)


def test_a_store_in_clear_text_is_left_alone() -> None:
    """Runs that a process without encryption began are not read by one that encrypts."""
    inner, clock = MemoryStore(), FakeClock()
    with lab(inner, clock=clock) as before:
        before.endpoint(sleeping).handle(asked())
        [record] = before.records.list()
    with (
        lab(encrypted(inner), clock=clock) as other,
        pytest.raises(EncryptionKeyError, match="not encrypted, and this process encrypts"),
    ):
        other.durable.runs.get(record.run.id)


def test_every_message_is_known() -> None:
    """A message that the store would not know what to encrypt in is a mistake in the library."""
    known = {
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type) and issubclass(kind, Write) and kind is not Write
    }
    assert known == set(_SEALED)


def test_a_cancelled_run(tmp_path: Path) -> None:
    """The reason is encrypted, and shown."""
    store = encrypted(SQLiteStore(tmp_path / "store.db"))
    with lab(store, clock=FakeClock()) as process:
        process.endpoint(sleeping).handle(asked())
        [record] = process.records.list()
        assert process.durable.runs.cancel(record.run.id, reason=MARK)
        assert MARK == process.durable.runs.get(record.run.id).cancel_reason
        assert [] == leaks(tmp_path)


def test_a_replaced_run(tmp_path: Path) -> None:
    """The end of a run that another one replaces is encrypted, and read by its client."""
    store = encrypted(SQLiteStore(tmp_path / "store.db"))
    with lab(store, clock=FakeClock()) as process:
        endpoint = process.endpoint(sleeping, singleton="cancel")
        first = endpoint.handle(asked())
        endpoint.handle(asked())
        last = process.follow(endpoint, first)
    assert 410 == last.status
    assert b"urn:durable:run-cancelled" in bytes(last.body)  # type: ignore[arg-type]
    assert b"run-cancelled" not in (tmp_path / "store.db").read_bytes()


DECIDED = {
    Run: {
        *("id", "app", "endpoint_key", "phase", "retries", "created_at", "event_seq", "failures"),
        *("crash_count", "epoch", "key", "parent", "traceparent", "labels", "version"),
        *("principal", "undoable", "timeout", "deadline", "function_id", "cancel_reason"),
        *("slot_key", "singleton_key", "client", "depth", "retry_count"),
    },
    Memo: {
        *("op", "completion_no", "ok", "event_seq", "attempts", "ended_at", "started_at"),
        *("value", "arguments"),
    },
    Pending: {
        *("op", "due_at", "failures", "event", "event_seq", "consumed_seqs", "address"),
        *("started_at", "error", "rule", "match_path", "match_key", "matched"),
    },
    FailedAttempt: {
        *("op_id", "number", "started_at", "ended_at", "error_name", "retry_at", "error_message"),
        "caused_by",
    },
    ChunkBatch: {"number", "op_id", "attempt", "start", "last", "texts"},
    Event: {"name", "id", "ts", "data"},
    StoredEvent: {"seq", "received_at", "event"},
    StoredRequest: {"head", "body"},
    StoredResult: {"phase", "ended_at", "head", "body", "follow_up"},
    NewRun: {"run", "request"},
    StoredStream: {"next", "handoff", "phase", "epoch", "is_running", "chunks"},
    Cancel: {"app", "run_id", "result", "deliveries", "reason"},
    Fork: {"app", "run_id", "op_id", "now", "run", "request"},
    SendEvents: {"app", "now", "source", "events"},
    Deliver: {"app", "now", "delivery"},
    Delivery: {"address", "run_id", "event"},
    Begin: {"key", "checkpoint", "slots", "queue_limit", "rate", "replaces"},
    IdempotencyKey: {"scope", "key", "expires_at", "fingerprint"},
    ClaimedRun: {"run", "request", "memos", "pending", "streamed", "handler_chunks"},
    RunRecord: {
        *("owner", "due_at", "ended_at", "running", "run", "memos", "pending", "failed_attempts"),
    },
}


@pytest.mark.parametrize("kind", DECIDED, ids=lambda kind: kind.__name__)
def test_every_field_is_decided(kind: Any) -> None:
    """Whoever adds a field decides whether it is encrypted, and adds it here."""
    assert DECIDED[kind] == {field.name for field in fields(kind)}


def test_every_part_of_a_checkpoint_is_decided() -> None:
    """Whoever adds a part to a checkpoint decides whether it is encrypted."""
    in_clear_text = {
        *("run_id", "owner", "epoch", "now", "release", "handoff", "no_pending_row", "replacing"),
        *("closing", "child_limit", "is_one_memo"),
    }
    sealed = {
        *("create", "request", "memos", "pending", "state", "result", "events", "deliveries"),
        *("chunks", "failed_attempts", "children"),
    }
    assert in_clear_text | sealed == {field.name for field in fields(Checkpoint)}


class Unable:
    """A cipher that cannot encrypt."""

    def encrypt(self, data: bytes, /) -> bytes:
        raise OSError("the key service is away")

    def decrypt(self, token: bytes, /) -> bytes:
        return token


def test_a_cipher_that_fails_is_a_fault_of_the_store() -> None:
    """The client gets 503, as from a store that is full, and nothing is stored."""
    with lab(encrypted(MemoryStore(), k1=Unable())) as process:
        answer = process.endpoint(sleeping).handle(asked())
        assert 503 == answer.status
        assert [] == list(process.records.list())


@pytest.mark.parametrize("store", [None, MemoryStore, object()])
def test_what_is_no_store(store: Any) -> None:
    """It is refused at once."""
    with pytest.raises(ConfigurationError, match="EncryptedStore takes the path"):
        encrypted(store)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"keys": {}}, "the newest first"),
        ({"keys": [fernet()]}, "the newest first"),
        ({"keys": {"a:b": fernet()}}, "'a:b'"),
        ({"keys": {"": fernet()}}, "''"),
        ({"keys": {"k": b"key"}}, "must have encrypt and decrypt"),
        ({"match_key": "short"}, "16 bytes or more"),
        ({"match_key": None}, "16 bytes or more"),
    ],
)
def test_bad_arguments(options: dict[str, Any], match: str) -> None:
    """Each is a ConfigurationError at once, which shows no key."""
    given: dict[str, Any] = {"keys": {"k": fernet()}, "match_key": MATCH_KEY, **options}
    with pytest.raises(ConfigurationError, match=match):
        EncryptedStore(MemoryStore(), **given)
