"""The embedded engine: retries, timers, waits and re-entry, with nothing but a store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from durable_core.duration import Duration, parse_duration
from durable_core.engine.lifecycle import (
    running_loop,
    shutting_down_response,
)
from durable_core.engine.run_control import RunControl
from durable_core.engine.unstored import with_ended_sleeps
from durable_core.errors import ConfigurationError, StoreBusyError, StoreError
from durable_core.flow.env import AppConfig
from durable_core.flow.scope import HandlerKind
from durable_core.http.headers import accepts_event_stream
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import versioned_key
from durable_core.platform import (
    SystemClock,
    SystemIds,
    logger,
    process_id,
    store_path,
)
from durable_core.runners.settings import (
    RegisteredEndpoint,
    Settings,
    endpoint_keys,
    slots_of,
)

if TYPE_CHECKING:
    from durable_core.engine.deferred import DeferredRun
    from durable_core.engine.deferred_thread import DeferredPoolRun, DeferredThreadRun
    from durable_core.engine.reports import EngineReports
    from durable_core.engine.worker import Worker
    from durable_core.flow.wait_url import WaitRequest
    from durable_core.model.event import Event, Signal
    from durable_core.ports import (
        Clock,
        Deliver,
        EarlierRun,
        IdempotencyKey,
        Ids,
        RunProgress,
        SendEvents,
        Store,
        Write,
    )
    from durable_core.stores.users import StoreUse

__all__ = ["EmbeddedEngine", "WorkerFactory", "embedded"]

T = TypeVar("T")


#: Between two tries to start while the store is locked, seconds; each pause is twice the last one.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0

#: Makes the worker of a process; see :class:`Worker` for the arguments.
WorkerFactory: TypeAlias = (
    "Callable[[AppConfig, Settings, Store, dict[str, RegisteredEndpoint]], Worker]"
)


class EmbeddedEngine(RunControl):
    """Runs the endpoints of one application in this process, with a store.

    Nothing is opened or started before :meth:`start` or the first request. After a fork the child
    leaves what it inherited alone and starts its own worker.

    Args:
        store: the path of a SQLite file, or a store. A path is made absolute here. Default: the
            environment variable ``DURABLE_STORE``, else ``./.durable/<id>.db``, with the id of the
            application.
        secrets: keys that sign the tokens of wait URLs, each 16 bytes or more; the first signs,
            all verify. Default: the environment variable ``DURABLE_SECRET``, else random bytes
            that are kept in the store.
        token_ttl: how long a token opens its run; a duration.
        settings: threads, tasks and times of a worker.
        clock, ids: time and randomness. Default: those of the system.

    Raises:
        ConfigurationError: ``store``, ``secrets``, ``settings``, ``clock`` or ``ids`` of another
            form.
        ValueError: ``token_ttl`` is no duration, or 0.
    """

    name = "the embedded engine"

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        *,
        secrets: Sequence[bytes | str] | None = None,
        token_ttl: Duration = "7 days",
        settings: Settings | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        super().__init__(settings)
        self._store: Store | None = None
        self._store_use: StoreUse | None = None
        self._path = ""
        if store is None:
            store = os.environ.get("DURABLE_STORE") or None
        if isinstance(store, (str, os.PathLike)):
            self._path = store_path(store)
        elif store is not None:
            self._store = _check_store(store)
        self._given_secrets = _parse_secrets(secrets)
        self._secrets: tuple[bytes, ...] = ()
        self._token_ttl = parse_duration(token_ttl, what="token_ttl")
        if not self._token_ttl:
            raise ValueError("token_ttl must be longer than 0: nobody could use a wait URL")
        _check_port("clock", clock, ("now", "elapsed"))
        _check_port("ids", ids, ("ulid", "uniform"))
        self._clock = clock or SystemClock()
        self._ids = ids or SystemIds()
        self._own_reports: EngineReports | None = None
        self._make_worker: WorkerFactory = _load_worker
        self._server_threads: int | None = None

    def __repr__(self) -> str:
        """Show the store, without loading it."""
        shown = repr(self._path) if self._store is None else repr(self._store)
        return f"EmbeddedEngine({shown})"

    @property
    def store(self) -> Store:
        """Where its state is kept. The default is known once it works for an application."""
        if self._store is None:
            from durable_core.stores.sqlite import SQLiteStore

            with self._lock:
                if self._store is None:
                    self._store = SQLiteStore(self._path)
        return self._store

    def attach(self, env: AppConfig) -> None:
        """Work for this application, with the clock and the secrets of the engine's own.

        Raises:
            ConfigurationError: it works for an application already.
        """
        self._refuse_second_application()
        if self._store is None and not self._path:
            self._path = os.path.abspath(Path(".durable") / f"{env.app}.db")
        self.env = replace(
            env,
            clock=self._clock,
            ids=self._ids,
            secrets=self._all_secrets,
            refresh_secrets=self._refresh_secrets,
            token_ttl=self._token_ttl,
            lease_check_age=min(env.lease_check_age, self.settings.lease / 3),
        )

    def register(self, endpoint: RegisteredEndpoint) -> None:
        """Add an endpoint, or replace it by a newer version of the same function.

        Raises:
            DuplicateEndpointError: another function has its key.
        """
        super().register(endpoint)
        key, version = endpoint.options.key, endpoint.options.version
        if version is not None:
            self.endpoints[versioned_key(key, version)] = endpoint

    def start(self, *, server_threads: int | None = None) -> None:
        """Open the store and start working in this process; nothing if that is so already.

        While another process keeps the store locked, it tries again, for up to
        ``Settings.start_timeout``: so a worker that a server starts at a bad moment does not fail.

        Raises:
            StoreBusyError: the store is locked still.
            StoreError: it cannot be opened.
        """
        if server_threads is not None:
            self._server_threads = server_threads  # also for a worker that a request starts
        worker, loop = self._start_patiently(), running_loop()
        worker.waiters.limit_threads(self._server_threads)
        if loop is not None:
            worker.loops.adopt(loop)

    def _start_patiently(self) -> Worker:
        give_up = time.monotonic() + self.settings.start_timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._started()
            except StoreBusyError as error:
                left = give_up - time.monotonic()
                if left <= 0:
                    raise
                text = "%s cannot start yet, it tries again for %.0f s: %s"
                logger.warning(text, self.env.app, left, error)
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _started(self) -> Worker:
        worker = self._last
        if worker is not None and worker.pid == process_id():  # as for nearly all requests
            return worker
        return self.started()

    def _start_host(self) -> Worker:
        """Return the worker of a process, started."""
        worker = self._make_worker(self.env, self.settings, self.store, self.endpoints)
        worker.waiters.limit_threads(self._server_threads)
        worker.start()
        return worker

    def stop(self, timeout: float) -> None:
        """Stop the worker of this process, if there is one, and close the store.

        Who has sent an event, or looked at runs, has opened the store without a worker. A store
        that was not opened in this process, such as after a fork, is left alone.

        Args:
            timeout: seconds that steps in flight have.

        Raises:
            RuntimeError: called on the event loop that its runs need.
        """
        super().stop(timeout)
        with self._lock:
            if self.worker is None and self._store_use is not None:
                self._store_use.close()

    def _open_store(self) -> None:
        """Open the store without a worker. It stays open until the stop of this application."""
        if self._store_use is None:
            from durable_core.stores.users import StoreUse

            self._store_use = StoreUse(self.store)
        self._store_use.open()

    @contextmanager
    def override(
        self, *, env: AppConfig, store: Store, settings: Settings, make_worker: WorkerFactory
    ) -> Iterator[None]:
        """Work with these in place of its own for a while: for tests.

        Raises:
            ConfigurationError: it is started; or, at the end, has not been stopped.
        """
        self._refuse_started()
        own = self.env, self._store, self._store_use, self.settings, self._make_worker
        self.env, self._store, self._store_use = env, store, None
        self.settings, self._make_worker = settings, make_worker
        self._secrets = ()  # they are read from the store
        try:
            yield
            self._refuse_started()
        finally:
            if self._store_use is not None:
                self._store_use.close()
            self.env, self._store, self._store_use, self.settings, self._make_worker = own
            self._secrets = ()

    def _refuse_started(self) -> None:
        if self.worker is not None:
            raise ConfigurationError(
                f"the application {self.env.app!r} works already; stop() it before it works "
                "with another store and clock"
            )

    def _all_secrets(self) -> tuple[bytes, ...]:
        return self._secrets or self._refresh_secrets()

    def _refresh_secrets(self) -> tuple[bytes, ...]:
        """Read the secrets of the store again: another process may have changed them."""
        if self._given_secrets:
            self._secrets = self._given_secrets
        else:
            from durable_core.engine.secrets import signing_order

            self._secrets = signing_order(self.store.secrets(), self.env.clock.now())
        return self._secrets

    def rotate_secrets(self, *, revoke: bool = False) -> None:
        """Make a new secret, which signs the tokens of wait URLs from a few seconds on.

        Tokens that older ones have signed stay valid until they expire. All processes of the store
        take the new one within two seconds; none is to be started again.

        Args:
            revoke: no older token is valid any more; clients that wait are refused.

        Raises:
            ConfigurationError: the secrets are those of ``secrets=`` or ``DURABLE_SECRET``.
            StoreError: it could not be stored.
        """
        from durable_core.engine.secrets import new_secret

        self.refuse_given_secrets()
        self.execute(new_secret(self.env.clock.now(), self.env.token_ttl, revoke=revoke))
        self._refresh_secrets()

    def refuse_given_secrets(self) -> None:
        """Raise a ``ConfigurationError`` if only the user can change the secrets."""
        if self._given_secrets:
            raise ConfigurationError(
                "the secrets of this application come from secrets= or DURABLE_SECRET: put a new "
                "key in front of them there, and leave out what is to be revoked"
            )

    def run_due(self, seconds: float) -> int:
        """Execute due runs in this process; see ``Durable.run_due``."""
        return self._started().scheduler.run_due(seconds)

    def next_due(self) -> int | None:
        """Return when the first run of the known endpoints is due, epoch milliseconds."""
        self.open_store()
        slots = slots_of(list(self.endpoints.values()))
        return self.store.next_due(self.env.app, tuple(self.endpoints), slots=slots)

    def health(self) -> dict[str, Any]:
        """Return what runs in this process, as a JSON-ready dict; starts nothing."""
        worker = self.worker
        if worker is None:
            return {"app": self.env.app, "started": False}
        return {
            "app": self.env.app,
            "started": True,
            "pid": worker.pid,
            "scheduler": worker.scheduler.alive,
            "live_runs": len(worker.live),
            "replaying": {kind.value: worker.runs.capacity.replaying(kind) for kind in HandlerKind},
            "waiting_clients": len(worker.waiters),
            "open_streams": worker.streams.readers,
            "draining": worker.stopping or worker.waiters.released,
            "commits": worker.queue.commits,
            "commit_seconds": worker.queue.average,
            "endpoints": endpoint_keys(self.endpoints),
        }

    def why_not_ready(self) -> str | None:
        """Return why this process should get no requests now; None if it may get some."""
        if self._is_stopping:
            return "stopping"
        try:
            worker = self._started()
            return worker.why_not_ready()
        except StoreError as error:
            self._reports.store_fault(f"not ready, the store is unavailable: {error}", error)
            return "store-unavailable"

    async def why_not_ready_async(self) -> str | None:
        """As :meth:`why_not_ready`, without blocking the event loop while the store is read."""
        from asyncio import to_thread

        if not self._is_stopping:
            with suppress(StoreError):  # which the thread sees, too
                self._started().loops.adopt_running()
        return await to_thread(self.why_not_ready)

    def is_reentry(self, request: Request) -> bool:
        """Return False: nobody but clients calls this engine's endpoints."""
        return False

    def serve(self, endpoint: RegisteredEndpoint, request: Request, route: str | None) -> Response:
        """Run a handler for a client, in this thread."""
        if self._stopping_pid and self._is_stopping:
            return shutting_down_response()
        follows = accepts_event_stream(request.headers) or endpoint.options.ui_messages is not None
        if endpoint.kind is HandlerKind.ASYNC_DEF and not follows:
            return self._serve_on_background_loop(endpoint, request, route)
        try:
            worker = self._started()
            event_seq = worker.event_watermark.recent()
            ex = worker.runs.new_execution(endpoint, request, route, event_seq)
            if worker.quota.is_full or ex.run.principal is not None:
                refusal = worker.quota.refusal(ex.run.principal)
                if refusal is not None:
                    return refusal
        except StoreError as error:
            return self._refuse(error)
        if follows:
            return worker.streaming.serve(endpoint, ex)
        if endpoint.options.max_sync_runtime is None:
            return worker.runs.start_for_client(endpoint, ex)
        return worker.sync_limit.start(endpoint, ex)

    def _serve_on_background_loop(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        try:
            worker = self._started()
        except StoreError as error:
            return self._refuse(error)
        return worker.run_on_background_loop(self.serve_async(endpoint, request, route))

    async def serve_async(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None
    ) -> Response:
        """Run a handler for a client of an asynchronous server."""
        if self._stopping_pid and self._is_stopping:
            return shutting_down_response()
        try:
            worker = self._started()
            worker.loops.adopt_running()
            event_seq: Any = worker.event_watermark.recent_async()
            if type(event_seq) is CoroutineType:
                event_seq = await event_seq
            ex = worker.runs.new_execution(endpoint, request, route, event_seq)
            if worker.quota.is_full or ex.run.principal is not None:
                refusal = await worker.reads.wait(worker.quota.refusal, ex.run.principal)
                if refusal is not None:
                    return refusal
        except StoreError as error:
            return self._refuse(error)
        if accepts_event_stream(request.headers) or endpoint.options.ui_messages is not None:
            return await worker.streaming.serve_async(endpoint, ex)
        if endpoint.options.max_sync_runtime is None:
            return await worker.runs.start_for_client_async(endpoint, ex)
        return await worker.sync_limit.start_async(endpoint, ex)

    def defer(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
    ) -> DeferredRun | Coroutine[Any, Any, DeferredRun | None] | None:
        """Return a run that begins only if its handler needs it; None if it must begin at once."""
        worker = self._last
        return None if worker is None else worker.defer(endpoint, request)

    def defer_in_pool(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
        begun: Callable[[], object],
    ) -> DeferredPoolRun | Coroutine[Any, Any, DeferredPoolRun | None] | None:
        """As :meth:`defer`, for a ``def`` handler that a thread of a framework calls."""
        worker = self._last
        return None if worker is None else worker.defer_in_pool(endpoint, request, begun)

    def defer_in_thread(
        self,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
    ) -> DeferredThreadRun | None:
        """As :meth:`defer`, for a ``def`` handler that is called in this thread."""
        worker = self._last
        if worker is None:
            return None
        try:
            return worker.defer_in_thread(endpoint, request)
        except StoreError:
            return None  # the run that must begin at once says so

    def serve_once(
        self,
        endpoint: RegisteredEndpoint,
        request: Request,
        route: str | None,
        key: IdempotencyKey | None,
    ) -> Response | EarlierRun:
        """Run a handler for a client, in this thread, if the store lets its run begin."""
        if self._stopping_pid and self._is_stopping:
            return shutting_down_response()
        try:
            worker = self._started()
        except StoreError as error:
            return self._refuse(error)
        follows = accepts_event_stream(request.headers) or endpoint.options.ui_messages is not None
        if endpoint.kind is HandlerKind.ASYNC_DEF and not follows:
            coroutine = self.serve_once_async(endpoint, request, route, key)
            return worker.run_on_background_loop(coroutine)
        return worker.admission.serve(
            worker.admission.arrival(endpoint, request, route, key, self, self._refuse)
        )

    async def serve_once_async(
        self,
        endpoint: RegisteredEndpoint,
        request: Request,
        route: str | None,
        key: IdempotencyKey | None,
    ) -> Response | EarlierRun:
        """As :meth:`serve_once`, for a client of an asynchronous server."""
        if self._stopping_pid and self._is_stopping:
            return shutting_down_response()
        try:
            worker = self._started()
        except StoreError as error:
            return self._refuse(error)
        worker.loops.adopt_running()
        return await worker.admission.serve_async(
            worker.admission.arrival(endpoint, request, route, key, self, self._refuse)
        )

    def wait(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL, in this thread."""
        try:
            worker = self._started()
            if wanted.stream is not None:
                return worker.streaming.wait(wanted, wanted.stream)
            return worker.long_poll.wait(wanted)
        except StoreError as error:
            return self._refuse(error)

    async def wait_async(self, wanted: WaitRequest) -> Response:
        """Answer a client at the wait URL."""
        try:
            worker = self._started()
            if wanted.stream is not None:
                return await worker.streaming.wait_async(wanted, wanted.stream)
            return await worker.long_poll.wait_async(wanted)
        except StoreError as error:
            return self._refuse(error)

    def look_up(self, wanted: WaitRequest) -> tuple[RunProgress, int | None] | Response:
        """Return how far a run is, or why the client may not know."""
        from durable_core.flow.wait import expiry_of, gone_response

        try:
            worker = self._started()
            expiry = expiry_of(self.env, wanted)
            if isinstance(expiry, Response):
                return expiry
            found = self.store.progress(self.env.app, wanted.run_id)
        except StoreError as error:
            return self._refuse(error)
        if found is None:
            return gone_response()
        record = worker.with_running_steps(wanted.run_id, found.record) or found.record
        record = with_ended_sleeps(record, self.env.clock.now())
        ended_at = record.ended_at
        kept_until = (
            None
            if ended_at is None
            else min(ended_at + int(self.settings.keep_runs * 1000), expiry)
        )
        return replace(found, record=record), kept_until

    def send(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """Store events and wake the runs that wait for them; return their ids."""
        write = self._to_send(events, source)
        with self._reports.sending(write):
            return self.execute(write).ids

    async def send_async(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """Store events and wake the runs that wait for them; return their ids."""
        write = self._to_send(events, source)
        with self._reports.sending(write):
            return (await self.execute_async(write)).ids

    def _refuse(self, error: StoreError) -> Response:
        from durable_core.flow.error_responses import store_unavailable_response

        text = f"a request was refused, the store is unavailable: {error}"
        self._reports.store_fault(text, error)
        return store_unavailable_response(error)

    @property
    def _reports(self) -> EngineReports:
        """How observers are notified of what happens outside runs."""
        if self._own_reports is None:
            from durable_core.engine.reports import EngineReports

            self._own_reports = EngineReports(self.env)
        return self._own_reports

    def signal(self, signal: Signal[object], id: str | None) -> str | None:
        """Send a signal to the step that waits for it; return its run, None if none waits."""
        return self.execute(self._to_deliver(signal, id)).run_id

    async def signal_async(self, signal: Signal[object], id: str | None) -> str | None:
        """As :meth:`signal`, in a task."""
        return (await self.execute_async(self._to_deliver(signal, id))).run_id

    def _to_deliver(self, signal: Signal[object], id: str | None) -> Deliver:
        from durable_core.flow.signals import deliver_signal

        now = self.env.clock.now()
        return deliver_signal(self.env.app, signal, id or self.env.ids.ulid(now), now)

    def _to_send(self, events: Sequence[Event], source: str) -> SendEvents:
        from durable_core.ports import SendEvents

        now = self.env.clock.now()
        named = tuple(
            replace(
                event,
                id=self.env.ids.ulid(now) if event.id is None else event.id,
                ts=now if event.ts is None else event.ts,
            )
            for event in events
        )
        return SendEvents(app=self.env.app, events=named, now=now, source=source)

    def execute(self, write: Write[T]) -> T:
        """Commit one write; without a worker in this process nothing is executed for it.

        Raises:
            StoreError: it was not committed.
            RunNotFoundError: it is about a run that there is not.
        """
        worker = self.worker
        if worker is not None:
            return worker.queue.execute(write)
        with self._lock:  # a store commits for one thread at a time, and no worker starts meanwhile
            if self.worker is None:
                self._open_store()
                [answer] = self.store.commit([write], wait=self.settings.busy_timeout)
                if isinstance(answer, BaseException):
                    raise answer
                return cast(T, answer)
        return self.execute(write)

    async def execute_async(self, write: Write[T]) -> T:
        """As :meth:`execute`, without blocking the event loop."""
        worker = self.worker
        if worker is None:
            from asyncio import to_thread

            return await to_thread(self.execute, write)
        return await worker.queue.wait_async(worker.queue.submit(write))

    def open_store(self) -> None:
        """Open the store, so that it can be read here; nothing is executed for that."""
        if self.worker is None:
            with self._lock:
                self._open_store()


def embedded(engine: object) -> EmbeddedEngine:
    """Return the engine if it is this one, for what works with its worker and store.

    Raises:
        ConfigurationError: it is another one.
    """
    if isinstance(engine, EmbeddedEngine):
        return engine
    name = getattr(engine, "name", type(engine).__name__)
    raise ConfigurationError(f"this needs the embedded engine; the application has {name}")


def _load_worker(
    env: AppConfig, settings: Settings, store: Store, endpoints: dict[str, RegisteredEndpoint]
) -> Worker:
    """Return a worker; its module is loaded no earlier than the application is started."""
    from durable_core.engine.worker import Worker

    return Worker(env, settings, store, endpoints)


def _check_store(store: Store) -> Store:
    """Return a store that a user has made.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(store, type) or not all(hasattr(store, name) for name in ("open", "commit")):
        raise ConfigurationError(
            "store= is the path of a SQLite file (str or os.PathLike), or an object such as "
            f"durable_core.stores.MemoryStore(), not {store!r}"
        )
    return store


def _check_port(name: str, given: object, methods: tuple[str, ...]) -> None:
    """See that an argument is an object with the methods of a port; None leaves it out.

    Raises:
        ConfigurationError: it is not.
    """
    is_one = all(callable(getattr(given, each, None)) for each in methods)
    if given is not None and (isinstance(given, type) or not is_one):
        raise ConfigurationError(
            f"{name}= must be an object with {' and '.join(methods)}, not {given!r}"
        )


def _parse_secrets(secrets: Sequence[bytes | str] | None) -> tuple[bytes, ...]:
    if secrets is None:
        given = os.environ.get("DURABLE_SECRET")
        secrets = (given,) if given else ()
    else:
        is_list = isinstance(secrets, Iterable) and not isinstance(secrets, (bytes, str))
        secrets = tuple(secrets) if is_list else ()  # an iterator can be read once only
        if not secrets:
            raise ConfigurationError("secrets= must be a list of one or more keys")
    if not all(isinstance(key, (bytes, str)) for key in secrets):
        raise ConfigurationError("a secret must be bytes or a str")
    keys = tuple(key.encode() if isinstance(key, str) else key for key in secrets)
    if any(len(key) < 16 for key in keys):
        raise ConfigurationError("a secret must have 16 bytes or more")
    return keys
