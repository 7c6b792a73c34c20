"""The how-to page on Flask."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.docs_pages import run_page

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "use-flask.md"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own test passes, and its hook refuses who it should."""
    monkeypatch.chdir(tmp_path)

    names = run_page(PAGE)

    try:
        names["test_create_order"]()
        response = names["app"].test_client().post("/orders/corner", json={"items": []})
        assert 401 == response.status_code
    finally:
        names["durable"].stop()
