"""The adapter that ``Durable`` takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self, Unpack

from durable_asgi._app import ASGIApp
from durable_core.api.adapter import HTTPHandler
from durable_core.api.options import EndpointOptions, EndpointOptionsDict

__all__ = ["ASGIAdapter", "endpoint_adapter"]


@dataclass(frozen=True, slots=True)
class ASGIAdapter:
    """Makes ASGI applications of endpoints: ``Durable(endpoint_adapter=endpoint_adapter)``.

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

    def wrap(self, endpoint: HTTPHandler) -> ASGIApp:
        """Return an ASGI application that answers by the endpoint."""
        return ASGIApp(endpoint)

    def proxy(self, proxy: HTTPHandler) -> ASGIApp:
        """Return an ASGI application that is the wait route."""
        return ASGIApp(proxy)


#: The adapter for ASGI servers.
endpoint_adapter = ASGIAdapter()
