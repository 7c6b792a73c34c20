"""The seam between an application and its engine."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable_core import Durable, Request, endpoint_adapter
from durable_core.api.engine import Engine
from durable_core.cli import main
from durable_core.engine.embedded import EmbeddedEngine, embedded
from durable_core.errors import ConfigurationError
from durable_core.stores.memory import MemoryStore


def engine() -> EmbeddedEngine:
    return EmbeddedEngine(MemoryStore())


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


def test_a_store_goes_to_the_engine_that_is_given() -> None:
    """``store=`` is short for an engine on that store, so there cannot be both."""
    with pytest.raises(ConfigurationError, match="either store= or engine="):
        Durable(id="it", engine=engine(), store=MemoryStore())


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("postgres://user:password@host/db", "a postgres URL is neither"),
        ("sqlite:///shop.db", "a sqlite URL is neither"),
        ("", "must not be empty"),
        (":memory:", r"give store=durable_core.stores.MemoryStore\(\)"),
        ("file::memory:?cache=shared", "a file URL is neither"),
        (5, "not 5"),
        (b"shop.db", "not b'shop.db'"),
        (MemoryStore, "not <class"),
    ],
)
def test_what_is_no_store(store: Any, message: str) -> None:
    """Neither a path nor a store: the error says what is allowed, and shows no password."""
    with pytest.raises(ConfigurationError, match=message) as raised:
        Durable(id="it", store=store)

    assert "password" not in str(raised.value)


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """DURABLE_STORE is the path where no argument is given; it is absolute from then on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DURABLE_STORE", "runs.db")
    named, other = EmbeddedEngine(), EmbeddedEngine("other.db")
    monkeypatch.chdir("/")

    assert [str(tmp_path / "runs.db"), str(tmp_path / "other.db")] == [
        getattr(each.store, "path", None) for each in (named, other)
    ]
    assert f"EmbeddedEngine(SQLiteStore({str(tmp_path / 'runs.db')!r}))" == repr(named)


def test_the_environment_names_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no path is an error as for an argument."""
    monkeypatch.setenv("DURABLE_STORE", "postgres://host/db")
    with pytest.raises(ConfigurationError, match=r"store= \(or DURABLE_STORE\) is the path"):
        EmbeddedEngine()


@pytest.mark.parametrize("secrets", ["one string of sixteen", [], ["short"], [b"x" * 15]])
def test_bad_secrets(secrets: Any) -> None:
    """Secrets are a list of keys of 16 bytes or more."""
    with pytest.raises(ConfigurationError):
        EmbeddedEngine(MemoryStore(), secrets=secrets)


def secrets_of(given: EmbeddedEngine) -> tuple[bytes, ...]:
    Durable(id="it", engine=given)
    return tuple(given.env.secrets())


def test_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``DURABLE_SECRET`` is the key, unless others are given; else the store has one."""
    store = MemoryStore()
    assert (store.secrets()[0].value,) == secrets_of(EmbeddedEngine(store))
    monkeypatch.setenv("DURABLE_SECRET", "e" * 16)
    assert (b"e" * 16,) == secrets_of(engine())
    assert (b"g" * 16,) == secrets_of(EmbeddedEngine(MemoryStore(), secrets=["g" * 16]))


@pytest.mark.parametrize("ttl", ["1h", 3600, timedelta(hours=1)])
def test_token_ttl(ttl: str | float | timedelta) -> None:
    """The life of tokens is a duration in any of its forms."""
    given = EmbeddedEngine(MemoryStore(), token_ttl=ttl)
    Durable(id="it", engine=given)
    assert 3_600_000 == given.env.token_ttl
    with pytest.raises(ValueError, match="token_ttl"):
        EmbeddedEngine(MemoryStore(), token_ttl="soon")


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
    monkeypatch.setattr(type(durable.engine), "store", None)
    monkeypatch.setattr("durable_core.cli.commands.load_durable", lambda target: durable)

    assert 0 != main(["runs", "list", "shop:durable"])
    assert "runs on an engine which has no store" in capsys.readouterr().err
