"""``on_complete=``: tells somebody that a run has ended, by a signed request or a function call.

The requests are those of Standard Webhooks 1.0 (https://www.standardwebhooks.com).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from durable_core.api.functions import is_async
from durable_core.api.run import run as current
from durable_core.api.step import step, sync_step
from durable_core.errors import (
    ConfigurationError,
    NonRetriableError,
    RetryAfterError,
    StepError,
)
from durable_core.flow.completion import (
    COMPLETION_RETRIES,
    Completed,
    completed_of,
    completion_key,
)
from durable_core.flow.limits import resolve_limits
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.scope import HandlerKind
from durable_core.http.headers import Headers
from durable_core.http.request import Request
from durable_core.machine.retry import RetryPolicy
from durable_core.platform import logger
from durable_core.runners.settings import RegisteredEndpoint

if TYPE_CHECKING:
    from durable_core.api.engine import Engine
    from durable_core.api.outgoing import Client

__all__ = ["Webhook", "register"]

_BACKOFF = RetryPolicy(base="5s", factor=3.0, max="6h")
_TIMEOUT = 15.0
#: A receiver that sends a byte now and then is given up after so long, seconds.
_WHOLE_TIMEOUT = 60.0
#: Of each endpoint so many are told at a time: a receiver that is slow must not take all threads.
_AT_ONCE = 4
_PREFIX = "whsec_"
_LEAST_KEY, _MOST_KEY = 24, 64
#: A receiver may ask for a later attempt than this; it gets this.
_LONGEST_RETRY_AFTER = 86_400


class Webhook:
    """A URL that is told of the end of each run, by a signed POST request.

    Args:
        url: ``http`` or ``https``, without user or fragment. Redirects are not followed.
        secret: signs the requests: ``"whsec_"`` and 24 to 64 bytes in base64. Of several, as while
            it is replaced, each signs. Default: the environment variable
            ``DURABLE_WEBHOOK_SECRET``, which may have several, with spaces between.
        client: a ``Client`` of ``httpx2`` or ``httpx``. Default: one of ``durable-client``.

    Raises:
        ConfigurationError: an argument of another form; no secret; no client.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | Sequence[str] | None = None,
        client: Client | None = None,
    ) -> None:
        self.url = _check_url(url)
        self._keys = _parse_secrets(secret)
        self._client = client
        if client is not None:
            _check_client(client)
        elif find_spec("durable_client") is None:
            raise ConfigurationError(
                "on_complete= with a URL needs an HTTP client: install durable-client, or give "
                "Webhook(url, client=)"
            )

    def __repr__(self) -> str:
        """Show where it goes, without what is secret."""
        parts = urlsplit(self.url)
        return f"Webhook({parts.scheme}://{parts.netloc}{parts.path})"

    def send(self, completed: Completed) -> int:
        """Send the request once; return the status of a success.

        Raises:
            NonRetriableError: the receiver wants no more of it (410).
            RetryAfterError: it says when to try again.
            OSError: another failure.
        """
        from durable_core.api.outgoing import parse_retry_after, with_trace_headers

        body = _payload(completed)
        headers = [(b"content-type", b"application/json"), (b"user-agent", b"durable-core")]
        headers += self._signed(completed.id, int(time.time()), body)
        headers += [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in with_trace_headers(Headers()).raw
        ]
        timeouts = (_TIMEOUT, _TIMEOUT, _TIMEOUT, _TIMEOUT)
        with self._open_client() as client:
            request = client.build_request(
                "POST", self.url, content=body, headers=headers, timeout=timeouts
            )
            response = client.send(request, stream=True, follow_redirects=False)
            status, retry_after = response.status_code, response.headers.get("retry-after")
            response.close()
        return _judge(self, status, parse_retry_after(retry_after))

    def _open_client(self) -> AbstractContextManager[Client]:
        if self._client is not None:
            return nullcontext(self._client)
        # By its name, for the core has no dependency: it comes with durable-client. Unlike a client
        # of that, it goes through the proxies of the environment.
        own: AbstractContextManager[Client] = import_module("httpx2").Client()
        return own

    def _signed(self, id_: str, at: int, body: bytes) -> list[tuple[bytes, bytes]]:
        content = f"{id_}.{at}.".encode() + body
        macs = (hmac.digest(key, content, hashlib.sha256) for key in self._keys)
        signatures = b" ".join(b"v1," + base64.b64encode(mac) for mac in macs)
        return [
            (b"webhook-id", id_.encode()),
            (b"webhook-timestamp", str(at).encode()),
            (b"webhook-signature", signatures),
        ]


def register(engine: Engine, options: ResolvedOptions) -> None:
    """Register the handler of the runs that tell of the end of an endpoint's runs.

    Args:
        engine: of the application.
        options: of the endpoint, with ``on_complete``.

    Raises:
        ConfigurationError: ``on_complete`` is of another form.
    """
    on_complete: Any = options.on_complete
    if isinstance(on_complete, str):
        on_complete = Webhook(on_complete)
    if not isinstance(on_complete, Webhook) and not callable(on_complete):
        raise ConfigurationError(
            f"on_complete must be a URL, a Webhook or a function, not {on_complete!r}"
        )
    awaits = not isinstance(on_complete, Webhook) and is_async(on_complete)
    key = completion_key(options.key)
    limits = None
    if not awaits:
        limits = resolve_limits(
            key, concurrency=_AT_ONCE, queue_limit=None, rate_limit=None, singleton=None
        )
    completion = ResolvedOptions(
        key=key, retries=COMPLETION_RETRIES, version=options.version, limits=limits
    )
    handler = _handler(on_complete, awaits=awaits)
    kind = HandlerKind.ASYNC_DEF if awaits else HandlerKind.DEF
    engine.register(RegisteredEndpoint(handler, kind, completion))


def _handler(
    on_complete: Webhook | Callable[[Completed], object], *, awaits: bool
) -> Callable[[Request], Any]:
    tell: Callable[[Completed], Any]
    tell = on_complete.send if isinstance(on_complete, Webhook) else on_complete

    def deliver(request: Request) -> str:
        completed = completed_of(request, current.id)
        limit = _WHOLE_TIMEOUT if isinstance(on_complete, Webhook) else None
        options = sync_step.options(retries=COMPLETION_RETRIES, backoff=_BACKOFF, timeout=limit)
        try:
            options.run("deliver", lambda: _status(tell(completed)))
        except StepError as error:
            _log_given_up(on_complete, completed, error)
            raise
        return "delivered"

    async def deliver_async(request: Request) -> str:
        completed = completed_of(request, current.id)

        async def call() -> None:
            told: Any = tell(completed)
            await told

        options = step.options(retries=COMPLETION_RETRIES, backoff=_BACKOFF)
        try:
            await options.run("deliver", call)
        except StepError as error:
            _log_given_up(on_complete, completed, error)
            raise
        return "delivered"

    return deliver_async if awaits else deliver


def _status(result: object) -> int | None:
    """Return the status of a request; what a user's function returns is not stored."""
    return result if type(result) is int else None


def _log_given_up(on_complete: object, completed: Completed, error: StepError) -> None:
    text = "%r was not told that run %s has ended (%s), and will not be: %s"
    logger.error(text, on_complete, completed.run_id, completed.status, error)


def _payload(completed: Completed) -> bytes:
    """Return the body, in the form that Standard Webhooks proposes."""
    told = {
        "type": f"run.{completed.status}",
        "timestamp": completed.ended.isoformat().replace("+00:00", "Z"),
        "data": {
            "run_id": completed.run_id,
            "endpoint": completed.endpoint,
            "name": completed.name,
            "status": completed.status,
            "key": completed.key,
            "labels": dict(completed.labels),
        },
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def _judge(webhook: Webhook, status: int, pause: float | None) -> int:
    if 200 <= status < 300:
        return status
    text = f"{webhook!r} answered {status}"
    if status == 410:
        raise NonRetriableError(f"{text}: it wants no more")
    if pause is not None:
        raise RetryAfterError(text, min(pause, _LONGEST_RETRY_AFTER))
    raise OSError(text)


def _check_url(url: object) -> str:
    """Return the URL of a receiver.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(url, str) or not url.isascii() or any(char <= " " for char in url):
        raise ConfigurationError(f"the URL of a webhook must be an absolute URL, not {url!r}")
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or parts.username is not None or parts.fragment:
        raise ConfigurationError(
            "the URL of a webhook must be http or https, with a host, and without user or "
            f"fragment, not {url!r}"
        )
    return url


def _check_client(client: object) -> None:
    from durable_core.api.outgoing import check_client  # few webhooks need it

    try:
        check_client(client, is_async=False)
    except TypeError as error:
        raise ConfigurationError(f"Webhook(client=): {error}") from None


def _parse_secrets(secret: str | Sequence[str] | None) -> tuple[bytes, ...]:
    if secret is None:
        secret = os.environ.get("DURABLE_WEBHOOK_SECRET", "").split()
        if not secret:
            raise ConfigurationError(
                "on_complete= with a URL needs a secret: Webhook(url, secret=) or the environment "
                "variable DURABLE_WEBHOOK_SECRET"
            )
    secrets = (secret,) if isinstance(secret, str) else tuple(secret)
    if not secrets:
        raise ConfigurationError("Webhook(secret=) must not be empty")
    return tuple(map(_parse_secret, secrets))


def _parse_secret(secret: str) -> bytes:
    """Return the key of a secret. Its text is in no message.

    Raises:
        ConfigurationError: it has another form.
    """
    if isinstance(secret, str) and secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if _LEAST_KEY <= len(key) <= _MOST_KEY:
            return key
    raise ConfigurationError(
        f"the secret of a webhook must be {_PREFIX!r} and {_LEAST_KEY} to {_MOST_KEY} bytes as "
        "base64"
    )
