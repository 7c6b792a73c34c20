"""The adapter that ``Durable`` takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self, Unpack

from durable_asyncio._app import AsyncioApp
from durable_core.api.adapter import HTTPHandler
from durable_core.api.options import EndpointOptions, EndpointOptionsDict

__all__ = ["AsyncioAdapter", "endpoint_adapter"]


@dataclass(frozen=True, slots=True)
class AsyncioAdapter:
    """Makes applications of this server of endpoints: ``Durable(endpoint_adapter=...)``.

    Args:
        options: of all endpoints that it wraps; those given to ``Durable.endpoint`` go before.
    """

    options: EndpointOptions = field(default_factory=EndpointOptions)

    def with_options(self, **options: Unpack[EndpointOptionsDict]) -> Self:
        """Return a new adapter with these options in place of its own.

        Raises:
            ValueError, TypeError: an option out of range; see ``EndpointOptions``.
        """
        return replace(self, options=self.options.merged(EndpointOptions(**options)))

    def wrap(self, endpoint: HTTPHandler) -> AsyncioApp:
        """Return an application that answers by the endpoint."""
        return AsyncioApp(endpoint)

    def proxy(self, proxy: HTTPHandler) -> AsyncioApp:
        """Return an application that is the wait route."""
        return AsyncioApp(proxy)


#: The adapter for the server of this package.
endpoint_adapter = AsyncioAdapter()
