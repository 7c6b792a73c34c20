"""The adapter object."""

from __future__ import annotations

from pathlib import Path

from durable_core import Durable, EndpointAdapter, Request
from durable_wsgi import WSGIApp, endpoint_adapter


def test_everything_is_wrapped_as_wsgi(tmp_path: Path) -> None:
    """Endpoints, the wait route and the events route all become WSGI applications."""
    adapter: EndpointAdapter[WSGIApp] = endpoint_adapter
    durable = Durable(id="shop", endpoint_adapter=adapter, store=tmp_path / "db")

    @durable.endpoint
    def checkout(request: Request) -> None: ...

    wrapped = (checkout, durable.endpoint_proxy(), durable.events_endpoint(public=True))

    assert [WSGIApp] * 3 == [type(each) for each in wrapped]
    assert {durable.engine} == {each.endpoint.engine for each in wrapped}
