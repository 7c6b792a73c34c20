"""The engine, how it is set up, and what its server does for a step.

``Durable(id=..., engine=InngestEngine())``
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial

from durable_core import Event, Request, Settings
from durable_core.engines.remote import (
    RemoteEngine,
    ServerFunction,
    ServerGateway,
    Signal,
)
from durable_core.errors import ConfigurationError, EngineError
from durable_inngest._config import Config, resolve_config
from durable_inngest._flows import dump_events, seed_of
from durable_inngest._host import InngestHost
from durable_inngest._reentry import is_reentry

__all__ = [
    "InngestEngine",
    "InngestFunction",
    "InngestGateway",
]


class InngestEngine(RemoteEngine[InngestHost]):
    """Runs endpoints on an Inngest server: ``Durable(id=..., engine=InngestEngine())``.

    What is not given is taken from the environment, when the engine starts.

    Args:
        is_dev: the server is a development server, which signs nothing (``INNGEST_DEV``: ``1``,
            ``0``, or its URL). Default: no.
        base_url: of the server (``INNGEST_API_BASE_URL``, ``INNGEST_BASE_URL``).
        event_base_url: where events are sent, if elsewhere (``INNGEST_EVENT_API_BASE_URL``).
        event_key: what they are sent with; needed for that unless ``is_dev``
            (``INNGEST_EVENT_KEY``).
        signing_key: proves both sides to each other; needed unless ``is_dev``
            (``INNGEST_SIGNING_KEY``).
        signing_key_fallback: for the time of a change of keys (``INNGEST_SIGNING_KEY_FALLBACK``).
        environment: the server's environment (``INNGEST_ENV``).
        serve_origin, serve_path: our URL as the server must call it, where a proxy changes it
            (``INNGEST_SERVE_ORIGIN``, ``INNGEST_SERVE_PATH``).
        allowed_hosts: hosts for which the server may be sent to the URL that a client has used,
            such as ``["shop.example", "*.shop.example:8443"]``; ``["*"]`` for any, where
            something before the application checks that. A request for another one gets 421.
            Default: any where ``serve_origin`` or a development server makes it harmless, this
            machine if the server is there, too; else one of both must be given.
        server_output_url: hand clients off to the server's own output URL, which loses what is
            not text, repeated headers and the status of failed runs.
        settings: threads and times of the process.
    """

    name = "the Inngest engine"

    def __init__(
        self,
        *,
        is_dev: bool | None = None,
        base_url: str | None = None,
        event_base_url: str | None = None,
        event_key: str | None = None,
        signing_key: str | None = None,
        signing_key_fallback: str | None = None,
        environment: str | None = None,
        serve_origin: str | None = None,
        serve_path: str | None = None,
        allowed_hosts: Sequence[str] | None = None,
        server_output_url: bool = False,
        settings: Settings | None = None,
    ) -> None:
        self._resolve = partial(
            resolve_config,
            is_dev=is_dev,
            base_url=base_url,
            event_base_url=event_base_url,
            event_key=event_key,
            signing_key=signing_key,
            signing_key_fallback=signing_key_fallback,
            environment=environment,
            serve_origin=serve_origin,
            serve_path=serve_path,
            allowed_hosts=allowed_hosts,
        )
        self._server_output_url = server_output_url
        self._config: Config | None = None
        super().__init__(settings)

    @property
    def config(self) -> Config:
        """Where the server is, and the keys.

        Raises:
            ConfigurationError: something is missing or of another form; the message says what.
        """
        if self._config is None:
            self._config = self._resolve(os.environ)
        return self._config

    def make_host(self) -> InngestHost:
        """Return the host of a process."""
        return InngestHost(
            self.env, self.config, self.settings, server_output_url=self._server_output_url
        )

    def is_reentry(self, request: Request) -> bool:
        """Tell whether a request has the headers of one from the server."""
        return is_reentry(request)

    async def send_async(self, events: Sequence[Event], source: str = "") -> Sequence[str]:
        """As :meth:`send`. The server tells no sources apart: it has one set of event ids."""
        now = self.env.clock.now()
        client = self.started().client_on(asyncio.get_running_loop())
        return await client.send(dump_events(events, now), seed_of(now, os.urandom(10)))

    async def signal_async(self, signal: Signal[object], id: str | None) -> str | None:
        """As :meth:`signal`.

        Raises:
            EngineError: there is an id; the server knows no ids of signals.
            EngineUnavailableError: the server has not taken it.
        """
        if id is not None:
            raise EngineError(f"{self.name} takes no id= for a signal: its server knows none")
        client = self.started().client_on(asyncio.get_running_loop())
        return await client.signal(signal.name, signal.data)


# --- functions ------------------------------------------------------------------------------------


class InngestFunction(ServerFunction):
    """A function of an application on the Inngest server, in any language, for ``step.invoke``.

    ``await step.invoke("charge", InngestFunction("billing", "charge"), {"amount": 20})``

    Args:
        app: the id of its application.
        id: the function's own id.

    Raises:
        ConfigurationError: one of them is no text, or empty.
    """

    def __init__(self, app: str, id: str) -> None:
        for name, value in (("app", app), ("id", id)):
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"InngestFunction({name}=) must be a text, not {value!r}")
        super().__init__(f"{app}-{id}")


class InngestGateway(ServerGateway):
    """Lets the Inngest server make the call of a step: ``client=InngestGateway()``.

    ``step.ai.infer`` asks the model by the server's AI gateway, which shows the tokens on its
    pages, and ``step.fetch`` calls by its gateway. Nothing of the application waits meanwhile. The
    server gets the key, or the headers, and shows the question.
    """
