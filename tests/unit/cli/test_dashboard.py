"""Which application ``durable dashboard`` shows, and when it shows none."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from durable_conformance.store_values import commit, created
from durable_core.cli import main
from durable_core.stores.sqlite import SQLiteStore


def a_store(folder: Path, *apps: str) -> str:
    """Return the path of a store in which these applications have runs."""
    path = str(folder / "shop.db")
    store = SQLiteStore(path)
    store.open()
    for number, app in enumerate(apps):
        commit(store, created(f"r{number}", app=app))
    store.close()
    return path


@pytest.mark.parametrize(
    ("apps", "options", "code", "message"),
    [
        (("shop", "bank"), [], 2, "the store has runs of bank, shop: name one of them with --app"),
        ((), [], 2, "the store has no runs yet"),
    ],
    ids=["several", "none"],
)
def test_one_application_is_shown(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    apps: tuple[str, ...],
    options: list[str],
    code: int,
    message: str,
) -> None:
    """Without a name it is the only one that there is."""
    store = a_store(tmp_path, *apps)

    assert code == main(["dashboard", "--store", store, *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "name either MODULE:DURABLE, or --store PATH"),
        (["shop:durable", "--store", "x"], 2, "name either"),
        (["shop:durable", "--app", "x"], 2, "--app goes with --store"),
        (["--store", "/nowhere/shop.db"], 1, "there is no store /nowhere/shop.db"),
        (["--store", "/nowhere/shop.db", "--app", "shop"], 1, "there is no store"),
    ],
    ids=["nothing", "both", "app-alone", "no-store", "no-store-named"],
)
def test_what_cannot_be_shown(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    """The error says why, and no store is made."""
    assert code == main(["dashboard", *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("port", ["x", "-1", "65536", "8e3", "0000009999999"])
def test_a_port_of_another_form(capsys: pytest.CaptureFixture[str], port: str) -> None:
    """It is refused before anything is opened."""
    with pytest.raises(SystemExit):
        main(["dashboard", "--store", "x", "--port", port])
    assert "must be 0 to 65535" in capsys.readouterr().err


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends, and names the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert 1 == main(["dashboard", "--store", a_store(tmp_path, "shop"), "--port", port])
    assert "choose one with --port" in capsys.readouterr().err


def test_without_the_distribution(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names it."""
    monkeypatch.setitem(sys.modules, "durable_dashboard", None)

    assert 2 == main(["dashboard", "--store", "x"])
    assert "durable-dashboard: install it with pip" in capsys.readouterr().err
