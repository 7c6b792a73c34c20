"""The adapter that ``Durable`` takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self, Unpack

from durable_core.api.adapter import HTTPHandler
from durable_core.api.options import EndpointOptions, EndpointOptionsDict
from durable_wsgi._app import WSGIApp

__all__ = ["WSGIAdapter", "endpoint_adapter"]


@dataclass(frozen=True, slots=True)
class WSGIAdapter:
    """Makes WSGI applications of endpoints: ``Durable(endpoint_adapter=endpoint_adapter)``.

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

    def wrap(self, endpoint: HTTPHandler) -> WSGIApp:
        """Return a WSGI application that answers by the endpoint."""
        return WSGIApp(endpoint)

    def proxy(self, proxy: HTTPHandler) -> WSGIApp:
        """Return a WSGI application that is the wait route."""
        return WSGIApp(proxy)


#: The adapter for WSGI servers.
endpoint_adapter = WSGIAdapter()
