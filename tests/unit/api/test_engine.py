"""The seam between an application and its engine."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core import Durable, Request, endpoint_adapter
from durable_core.api.engine import Engine
from durable_core.cli import main
from durable_core.engine.embedded import EmbeddedEngine, embedded
from durable_core.errors import ConfigurationError
from durable_core.runners.settings import Settings
from durable_core.stores.memory import MemoryStore


def engine() -> EmbeddedEngine:
    return EmbeddedEngine((), MemoryStore(), Settings())


def test_the_embedded_engine_is_one() -> None:
    """It fits the protocol, for type checkers; given explicitly it works as the default does."""
    given: Engine = engine()
    durable = Durable(id="it", endpoint_adapter=endpoint_adapter, engine=given)
    endpoint = durable.endpoint(lambda request: {"path": request.path})
    try:
        response = endpoint.handle(Request(method="GET", url="http://x/a"))
    finally:
        durable.stop()

    assert b'{"path":"/a"}' == response.body
    assert durable.engine is given
    assert "it" == given.env.app


def test_an_engine_works_for_one_application() -> None:
    """A second ``Durable`` that is given the same engine is refused."""
    shared = engine()
    Durable(id="first", engine=shared)
    with pytest.raises(ConfigurationError, match="works for 'first' already"):
        Durable(id="second", engine=shared)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"store": MemoryStore()}, "store="),
        ({"secrets": ["s" * 16]}, "secrets="),
        ({"settings": Settings(), "token_ttl": "1h"}, "token_ttl=, settings="),
    ],
)
def test_what_only_the_default_engine_takes(arguments: dict[str, Any], named: str) -> None:
    """Arguments that the given engine would not see are refused by name."""
    with pytest.raises(ConfigurationError, match=named):
        Durable(id="it", engine=engine(), **arguments)


def test_no_client_is_taken_for_the_engine() -> None:
    """Whatever headers a request has, the embedded engine takes it for a client's."""
    headers = {"x-run-id": "01J0000000000000000000000X", "x-inngest-signature": ""}
    request = Request(method="GET", url="http://x/", headers=headers)

    assert not engine().is_reentry(request)


def test_what_needs_the_embedded_engine_says_so() -> None:
    """Another engine is named in the error."""

    class Other:
        name = "another engine"

    with pytest.raises(ConfigurationError, match="the application has another engine"):
        embedded(Other())


def test_the_command_line_needs_a_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looking into the store of an engine that has none is an error with the engine's name."""
    durable: Durable[Any] = Durable(id="it", engine=engine())
    monkeypatch.setattr(durable.engine, "store", None)
    monkeypatch.setattr("durable_core.cli.load_durable", lambda target: durable)

    assert 0 != main(["runs", "list", "shop:durable"])
    assert "runs on the embedded engine, which has no store" in capsys.readouterr().err
