"""A store that encrypts what users wrote before another store keeps it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from durable_core.codec.json import JSONCodec
from durable_core.codec.records import pack, pack_text, unpack, unpack_text
from durable_core.errors import ConfigurationError, EncryptionKeyError, StoreError
from durable_core.machine.addresses import is_callback
from durable_core.machine.blinding import MIRROR, Blinder
from durable_core.model.event import Event, StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Pending
from durable_core.model.stream import ChunkBatch, Pushed, StoredStream, Streamed, StreamPlace
from durable_core.platform import logger
from durable_core.ports import (
    ANY_RUN,
    Begin,
    Begun,
    Cancel,
    Channel,
    ChannelWrite,
    Checkpoint,
    CheckpointResult,
    Claim,
    ClaimedRun,
    CorruptRun,
    Delete,
    Deliver,
    Delivery,
    EndedWait,
    Fork,
    Heartbeat,
    IdempotencyKey,
    LeaveQueue,
    LiveExecution,
    NewRun,
    Prune,
    ReapWorkers,
    RecentEvent,
    Register,
    Retry,
    RotateSecret,
    RunFilter,
    RunProgress,
    RunRecord,
    SealedRun,
    SendEvents,
    Slots,
    Store,
    StoredRequest,
    StoredResult,
    StoredSecret,
    Unregister,
    Usage,
    Wakeups,
    WorkerRecord,
    Write,
    channel_of,
)
from durable_core.stores.users import StoreUse

__all__ = ["Cipher", "EncryptedStore"]

#: The name under which the data of a stored event has the encrypted real data.
_DATA = "$"
_JSON = JSONCodec()
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHORTEST_MATCH_KEY = 16


class Cipher(Protocol):
    """One key, such as ``cryptography.fernet.Fernet(key)``. Used by several threads at a time."""

    def encrypt(self, data: bytes, /) -> bytes:
        """Return the encrypted data. It should be authenticated: a changed one is refused."""
        ...

    def decrypt(self, token: bytes, /) -> bytes:
        """Return the data; raise any exception for what another key has encrypted."""
        ...


class EncryptedStore(Store):
    """Encrypts what users wrote, and lets another store keep it.

    Encrypted are requests and responses, the label that is shown of a run (it may have a path in
    it), results and arguments of steps, errors, chunks of streams, and the data of events. Events
    are matched with waits by keyed hashes of their values. In clear text are ids, times and states,
    the names of applications, endpoints, steps and events, the classes of errors, and what runs are
    found by: keys, labels, principals, versions, trace contexts, addresses of signals.

    A store is encrypted from its first run on. A run that no key here opens stays as it is, for
    another process.

    Args:
        store: the path of a SQLite file, or a store.
        keys: ciphers by their ids, which are 1 to 64 letters, digits, ``.``, ``_``, ``-`` and are
            stored in clear text. The first one encrypts, all decrypt.
        match_key: the secret of the hashes, 16 bytes or more; the same for the life of the store.

    Attributes:
        inner: the other store.
        channel: see ``durable_core.ports.Channel``.

    Raises:
        ConfigurationError: an argument of another form.
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store,
        *,
        keys: Mapping[str, Cipher],
        match_key: bytes | str,
    ) -> None:
        if isinstance(store, (str, os.PathLike)):
            from durable_core.stores.sqlite import SQLiteStore

            store = SQLiteStore(store)
        if isinstance(store, type) or not all(hasattr(store, name) for name in ("open", "commit")):
            raise ConfigurationError(
                "EncryptedStore takes the path of a SQLite file, or an object such as "
                f"durable_core.stores.MemoryStore(), not {store!r}"
            )
        self.inner: Store = store
        self._use = StoreUse(store)
        self._seal = _Seal(_check_keys(keys), Blinder(_check_match_key(match_key)))
        channel = channel_of(store)
        if channel is not None:
            self.channel: Channel = _EncryptedChannel(channel, self._seal)
        self._unread: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        """Show the other store, and no key."""
        return f"EncryptedStore({self.inner!r})"

    @property
    def reads_are_fast(self) -> bool:
        return self.inner.reads_are_fast

    def open(self) -> None:
        self._use.open()

    def close(self) -> None:
        self._use.close()

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        sealed: list[Write[object] | StoreError] = [self._sealed(write) for write in writes]
        to_write = [each for each in sealed if not isinstance(each, StoreError)]
        answers = iter(self.inner.commit(to_write, wait=wait) if to_write else ())
        return [
            each if isinstance(each, StoreError) else self._opened(write, next(answers))
            for write, each in zip(writes, sealed, strict=True)
        ]

    def decrypt(
        self, claimed: ClaimedRun, result: StoredResult | None
    ) -> tuple[ClaimedRun, StoredResult | None]:
        """Return what is stored of a run, and its result, in clear text.

        Raises:
            EncryptionKeyError: no key here opens it.
        """
        opened = None if result is None else self._seal.open_result(result)
        return self._seal.open_claimed(claimed), opened

    def _sealed(self, write: Write[object]) -> Write[object] | StoreError:
        """Return a message as the other store gets it, or why it cannot be encrypted."""
        sealed = _SEALED.get(type(write))
        if sealed is None:
            raise TypeError(f"EncryptedStore does not know what to encrypt in {type(write)}")
        try:
            return cast("Write[object]", sealed(self._seal, write))
        except MemoryError:
            raise
        except Exception as error:
            return StoreError(f"it cannot be encrypted: {error!r}")

    def _opened(self, write: Write[object], answer: object) -> object:
        """Return the other store's answer in clear text, or why there is none."""
        try:
            if isinstance(answer, CheckpointResult) and answer.matched:
                matched = tuple(
                    (op_id, self._seal.open_event(each)) for op_id, each in answer.matched
                )
                return replace(answer, matched=matched)
            if isinstance(answer, Begun):
                return self._begun(answer)
            if isinstance(write, Claim) and isinstance(answer, tuple):
                return tuple(map(self._open_claimed, answer))
        except EncryptionKeyError as error:
            return error
        return answer

    def _open_claimed(
        self, claimed: ClaimedRun | CorruptRun | SealedRun
    ) -> ClaimedRun | CorruptRun | SealedRun:
        if not isinstance(claimed, ClaimedRun):
            return claimed
        try:
            return self._seal.open_claimed(claimed)
        except EncryptionKeyError as error:
            return SealedRun(run=claimed.run, reason=str(error))

    def run_maintenance(self) -> None:
        self.inner.run_maintenance()

    def now(self, local: int) -> int:
        return self.inner.now(local)

    def event_seq(self, app: str) -> int:
        return self.inner.event_seq(app)

    def result(self, app: str, run_id: str) -> StoredResult | Phase | None:
        result = self.inner.result(app, run_id)
        return self._seal.open_result(result) if isinstance(result, StoredResult) else result

    def keyed_run(self, app: str, key: IdempotencyKey, now: int) -> Begun | None:
        begun = self.inner.keyed_run(app, key, now)
        return None if begun is None else self._begun(begun)

    def _begun(self, begun: Begun) -> Begun:
        return replace(begun, fingerprint=self._seal.open_text(begun.fingerprint))

    def read_stream(
        self,
        app: str,
        run_id: str,
        *,
        done: int,
        outside: int,
        most: int,
        begin: StreamPlace | None = None,
    ) -> StoredStream | None:
        stored = self.inner.read_stream(
            app, run_id, done=done, outside=outside, most=most, begin=begin
        )
        if stored is None:
            return None
        return replace(stored, chunks=tuple(map(self._seal.open_chunks, stored.chunks)))

    def stream_versions(self, app: str, run_ids: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
        return self.inner.stream_versions(app, run_ids)

    def which_ended(self, app: str, run_ids: Sequence[str]) -> Sequence[str]:
        return self.inner.which_ended(app, run_ids)

    def next_due(self, app: str, keys: Sequence[str], *, slots: Sequence[Slots] = ()) -> int | None:
        return self.inner.next_due(app, keys, slots=slots)

    def unclaimable(self, app: str, keys: Sequence[str], now: int) -> Sequence[RunRecord]:
        return [self._with_label(each) for each in self.inner.unclaimable(app, keys, now)]

    def matched_waits(self, owner: str) -> Sequence[tuple[str, str, StoredEvent]]:
        found = []
        for run_id, op_id, event in self.inner.matched_waits(owner):
            try:
                found.append((run_id, op_id, self._seal.open_event(event)))
            except EncryptionKeyError as error:
                # The run goes on with it in a process that has the key, once it was suspended.
                if (run_id, op_id) not in self._unread:
                    self._unread.add((run_id, op_id))
                    logger.error("an event that run %s waits for cannot be read: %s", run_id, error)
        return found

    def abandoned_children(
        self, app: str, parents: Sequence[str] | None = None
    ) -> Sequence[RunRecord]:
        return [self._with_label(each) for each in self.inner.abandoned_children(app, parents)]

    def cancelled_runs(self, owner: str) -> Sequence[str]:
        return self.inner.cancelled_runs(owner)

    def held(self, owner: str) -> Mapping[str, int]:
        return self.inner.held(owner)

    def workers(self) -> Sequence[WorkerRecord]:
        return self.inner.workers()

    def dead_workers(self, workers: Sequence[WorkerRecord]) -> Sequence[str]:
        return self.inner.dead_workers(workers)

    def get(self, app: str, run_id: str) -> RunRecord | None:
        record = self.inner.get(app, run_id)
        if record is None:
            return None
        seal = self._seal
        return replace(
            record,
            run=seal.open_run(record.run),
            memos=tuple(map(seal.open_memo, record.memos)),
            pending=tuple(map(seal.show_pending, record.pending)),
            failed_attempts=tuple(map(seal.open_attempt, record.failed_attempts)),
        )

    def progress(self, app: str, run_id: str) -> RunProgress | None:
        found = self.inner.progress(app, run_id)
        if found is None:
            return None
        seal, record = self._seal, found.record
        pending = tuple(map(seal.show_pending, record.pending))
        opened = replace(record, run=seal.open_run(record.run), pending=pending)
        return replace(found, record=opened)

    def list(self, app: str, *, where: RunFilter = ANY_RUN, limit: int) -> Sequence[RunRecord]:
        return [self._with_label(each) for each in self.inner.list(app, where=where, limit=limit)]

    def _with_label(self, record: RunRecord) -> RunRecord:
        """Return a record with its label; without the key its endpoint stands in for that."""
        try:
            return replace(record, run=self._seal.open_run(record.run))
        except EncryptionKeyError:
            return replace(record, run=replace(record.run, function_id=record.run.endpoint_key))

    def request(self, app: str, run_id: str) -> StoredRequest | None:
        request = self.inner.request(app, run_id)
        return None if request is None else self._seal.open_request(request)

    def recent_events(self, app: str, limit: int) -> Sequence[RecentEvent]:
        found = []
        for recent in self.inner.recent_events(app, limit):
            try:
                stored = self._seal.open_event(recent.stored)
                waits = tuple(map(self._seal.open_wait, recent.waits))
            except EncryptionKeyError as error:
                logger.error("event %d is not shown: %s", recent.stored.seq, error)
                continue
            found.append(RecentEvent(stored=stored, waits=waits))
        return found

    def apps(self) -> Sequence[str]:
        return self.inner.apps()

    def usage(self, app: str, *, principal: str | None = None, most: int) -> Usage:
        return self.inner.usage(app, principal=principal, most=most)

    def secrets(self) -> Sequence[StoredSecret]:
        return self.inner.secrets()

    def wakeups(self) -> Wakeups:
        return self.inner.wakeups()


def _check_keys(keys: object) -> Mapping[str, Cipher]:
    if not isinstance(keys, Mapping) or not keys:
        raise ConfigurationError("keys= must be a mapping of key ids to ciphers, the newest first")
    for key_id, cipher in keys.items():
        if not isinstance(key_id, str) or _KEY_ID.fullmatch(key_id) is None:
            raise ConfigurationError(
                f"keys=: an id is 1 to 64 letters, digits, '.', '_' or '-', not {key_id!r}"
            )
        if not all(callable(getattr(cipher, name, None)) for name in ("encrypt", "decrypt")):
            raise ConfigurationError(
                f"keys=: the cipher {key_id!r} must have encrypt and decrypt, as Fernet(key) has"
            )
    return dict(keys)


def _check_match_key(match_key: object) -> bytes:
    key = match_key.encode() if isinstance(match_key, str) else match_key
    if not isinstance(key, bytes) or len(key) < _SHORTEST_MATCH_KEY:
        raise ConfigurationError(f"match_key= must have {_SHORTEST_MATCH_KEY} bytes or more")
    return key


# --- values ---------------------------------------------------------------------------------------


class _Seal:
    """Encrypts and decrypts the parts of messages and records."""

    def __init__(self, keys: Mapping[str, Cipher], blinder: Blinder) -> None:
        self._keys = keys
        self._key_id, self._cipher = next(iter(keys.items()))
        self.blinder = blinder

    def content(self, data: bytes) -> bytes:
        return pack(self._key_id, self._cipher.encrypt(data))

    def text(self, text: str) -> str:
        """Encrypt a text; one that is empty stands for none, and stays so."""
        if not text:
            return text
        return pack_text(self._key_id, self._cipher.encrypt(text.encode("utf-8", "surrogatepass")))

    def open_content(self, value: bytes) -> bytes:
        return self._open(unpack, value)

    def open_text(self, value: str) -> str:
        return self._open(unpack_text, value).decode("utf-8", "surrogatepass") if value else value

    def _open(self, unpack: Callable[[Any], tuple[str, bytes]], value: object) -> bytes:
        try:
            key_id, ciphertext = unpack(value)
        except ValueError:
            raise _in_clear_text() from None
        cipher = self._keys.get(key_id)
        if cipher is None:
            raise EncryptionKeyError(
                f"what is stored is encrypted with the key {key_id!r}, which is not among keys="
            )
        try:
            return cipher.decrypt(ciphertext)
        except MemoryError:
            raise
        except Exception as error:
            raise EncryptionKeyError(
                f"what is stored is encrypted with another key {key_id!r} than that of keys=, or "
                f"was changed: {error!r}"
            ) from error

    # Of messages

    def checkpoint(self, write: Checkpoint) -> Checkpoint:
        return replace(
            write,
            create=self._optional(self.run, write.create),
            request=self._optional(self.request, write.request),
            memos=tuple(map(self.memo, write.memos)),
            pending=tuple(map(self.pending, write.pending)),
            state=self._optional(self.run, write.state),
            result=self._optional(self.result, write.result),
            events=tuple(map(self.event, write.events)),
            deliveries=tuple(map(self.delivery, write.deliveries)),
            children=tuple(map(self.new_run, write.children)),
            chunks=tuple(map(self.chunks, write.chunks)),
            failed_attempts=tuple(map(self.attempt, write.failed_attempts)),
        )

    def new_run(self, new: NewRun) -> NewRun:
        return NewRun(self.run(new.run), self.request(new.request))

    def begin(self, write: Begin) -> Begin:
        key = write.key
        if key is not None:
            key = replace(key, fingerprint=self.text(key.fingerprint))
        replaces = self._optional(self.cancel, write.replaces)
        checkpoint = self.checkpoint(write.checkpoint)
        return replace(write, key=key, checkpoint=checkpoint, replaces=replaces)

    def send(self, write: SendEvents) -> SendEvents:
        return replace(write, events=tuple(map(self.event, write.events)))

    def deliver(self, write: Deliver) -> Deliver:
        return replace(write, delivery=self.delivery(write.delivery))

    def cancel(self, write: Cancel) -> Cancel:
        deliveries = tuple(map(self.delivery, write.deliveries))
        result, reason = self.result(write.result), self.text(write.reason)
        return replace(write, result=result, deliveries=deliveries, reason=reason)

    def fork(self, write: Fork) -> Fork:
        request = self._optional(self.request, write.request)
        return replace(write, run=self.run(write.run), request=request)

    @staticmethod
    def _optional(change: Callable[[Any], Any], part: Any) -> Any:
        return None if part is None else change(part)

    # Of their parts, and of records

    def run(self, run: Run) -> Run:
        return self._run(run, self.text)

    def open_run(self, run: Run) -> Run:
        return self._run(run, self.open_text)

    @staticmethod
    def _run(run: Run, change: Callable[[str], str]) -> Run:
        reason = None if run.cancel_reason is None else change(run.cancel_reason)
        return replace(run, function_id=change(run.function_id), cancel_reason=reason)

    def request(self, request: StoredRequest) -> StoredRequest:
        return StoredRequest(head=self.text(request.head), body=self.content(request.body))

    def result(self, result: StoredResult) -> StoredResult:
        body = None if result.body is None else self.content(result.body)
        follow_up = self._optional(self.new_run, result.follow_up)
        return replace(result, head=self.text(result.head), body=body, follow_up=follow_up)

    def open_result(self, result: StoredResult) -> StoredResult:
        body = None if result.body is None else self.open_content(result.body)
        return replace(result, head=self.open_text(result.head), body=body)

    def memo(self, memo: Memo) -> Memo:
        return self._memo(memo, self.text)

    def open_memo(self, memo: Memo) -> Memo:
        return self._memo(memo, self.open_text)

    @staticmethod
    def _memo(memo: Memo, change: Callable[[str], str]) -> Memo:
        arguments = None if memo.arguments is None else change(memo.arguments)
        return replace(memo, value=change(memo.value), arguments=arguments)

    def pending(self, pending: Pending) -> Pending:
        matched = pending.matched
        if matched is not None:
            matched = replace(matched, event=self.event(matched.event))
        blinded = self.blinder.wait(pending)
        return replace(blinded, error=self.text(pending.error), matched=matched)

    def open_pending(self, pending: Pending) -> Pending:
        """Return an op in clear text; the rule of a wait stays hashed, as it is not used again."""
        matched = None if pending.matched is None else self.open_event(pending.matched)
        return replace(pending, error=self.open_text(pending.error), matched=matched)

    def show_pending(self, pending: Pending) -> Pending:
        """As :meth:`open_pending`, for people, to whom a hashed rule says nothing."""
        return replace(self.open_pending(pending), rule="", match_path="", match_key="")

    def attempt(self, attempt: FailedAttempt) -> FailedAttempt:
        return replace(attempt, error_message=self.text(attempt.error_message))

    def open_attempt(self, attempt: FailedAttempt) -> FailedAttempt:
        return replace(attempt, error_message=self.open_text(attempt.error_message))

    def event(self, event: Event) -> Event:
        data = {
            _DATA: self.text(_JSON.encode(dict(event.data))),
            MIRROR: self.blinder.data(event.data),
        }
        return replace(event, data=data)

    def open_event(self, stored: StoredEvent) -> StoredEvent:
        sealed = stored.event.data.get(_DATA)
        if not isinstance(sealed, str):
            raise _in_clear_text()
        data = json.loads(self.open_text(sealed))
        return replace(stored, event=replace(stored.event, data=data))

    def delivery(self, delivery: Delivery) -> Delivery:
        event = self.event(delivery.event)
        if is_callback(delivery.address):
            # The id is a hash of the answer, and whoever guesses a short answer could check it.
            event = replace(event, id=self.blinder.text(f"id:{event.id}"))
        return replace(delivery, event=event)

    def chunks(self, batch: ChunkBatch) -> ChunkBatch:
        """Encrypt a batch as a whole; it keeps its number of texts, which has a meaning."""
        if not batch.texts:
            return batch
        first = self.text("\n".join(batch.texts))  # JSON text has no line ends
        return replace(batch, texts=(first, *("" for _ in batch.texts[1:])))

    def open_chunks(self, batch: ChunkBatch) -> ChunkBatch:
        if not batch.texts:
            return batch
        return replace(batch, texts=tuple(self.open_text(batch.texts[0]).split("\n")))

    def open_request(self, request: StoredRequest) -> StoredRequest:
        head, body = self.open_text(request.head), self.open_content(request.body)
        return StoredRequest(head=head, body=body)

    def open_wait(self, wait: EndedWait) -> EndedWait:
        return wait if wait.value is None else replace(wait, value=self.open_text(wait.value))

    def open_claimed(self, claimed: ClaimedRun) -> ClaimedRun:
        return replace(
            claimed,
            run=self.open_run(claimed.run),
            request=self.open_request(claimed.request),
            memos=tuple(map(self.open_memo, claimed.memos)),
            pending=tuple(map(self.open_pending, claimed.pending)),
        )


def _in_clear_text() -> EncryptionKeyError:
    return EncryptionKeyError(
        "what is stored is not encrypted, and this process encrypts; a store is encrypted from its "
        "first run on"
    )


def _as_it_is(seal: _Seal, write: object) -> object:
    """Return a message in which users wrote nothing."""
    return write


#: What is encrypted in each message. One that is not here is refused.
_SEALED: Mapping[type, Callable[[_Seal, Any], object]] = {
    Checkpoint: _Seal.checkpoint,
    Begin: _Seal.begin,
    SendEvents: _Seal.send,
    Deliver: _Seal.deliver,
    Cancel: _Seal.cancel,
    Fork: _Seal.fork,
    Claim: _as_it_is,
    Delete: _as_it_is,
    Heartbeat: _as_it_is,
    LeaveQueue: _as_it_is,
    Prune: _as_it_is,
    ReapWorkers: _as_it_is,
    Register: _as_it_is,
    Retry: _as_it_is,
    RotateSecret: _as_it_is,
    Unregister: _as_it_is,
}


class _EncryptedChannel(Channel):
    """Encrypts the chunks that running steps tell other processes of the store."""

    def __init__(self, channel: Channel, seal: _Seal) -> None:
        self._inner = channel
        self._seal = seal

    def write(self, writes: Sequence[ChannelWrite]) -> Sequence[bool]:
        return self._inner.write(
            [replace(each, events=[*map(self._sealed, each.events)]) for each in writes]
        )

    def _sealed(self, event: Streamed) -> Streamed:
        if not isinstance(event, Pushed):
            return event
        return replace(event, text=self._seal.text(event.text))

    def prune(self, age: float) -> None:
        self._inner.prune(age)

    def remove(self, executions: Sequence[tuple[str, int]]) -> None:
        self._inner.remove(executions)

    def version(self) -> tuple[int, int]:
        return self._inner.version()

    def executions(self, run_ids: Sequence[str]) -> Sequence[LiveExecution]:
        return self._inner.executions(run_ids)

    def read(
        self, execution: LiveExecution, after: int, most: int
    ) -> Sequence[tuple[int, Streamed]]:
        return [
            (place, self._opened(event))
            for place, event in self._inner.read(execution, after, most)
        ]

    def _opened(self, event: Streamed) -> Streamed:
        if not isinstance(event, Pushed):
            return event
        return replace(event, text=self._seal.open_text(event.text))
