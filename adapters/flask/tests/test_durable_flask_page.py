"""The how-to page on Flask."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.docs_pages import run_page

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "use-flask.md"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own test passes, and its hook and its views do what it says."""
    monkeypatch.chdir(tmp_path)

    names = run_page(PAGE)

    try:
        names["test_create_order"]()
        client = names["app"].test_client()
        assert 401 == client.post("/orders/corner", json={"items": []}).status_code
        headers = {"authorization": "Bearer t1"}
        assert 404 == client.get("/shops/nowhere", headers=headers).status_code
        assert "Corner Street 1" == client.get("/shops/corner", headers=headers).text
        assert "corner street" == client.get("/addresses/corner", headers=headers).text
        me = client.get("/me", headers=headers, follow_redirects=True)
        assert "the user of t1" == me.text
    finally:
        names["durable"].stop()
