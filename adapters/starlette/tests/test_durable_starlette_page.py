"""The how-to page on FastAPI."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from support.docs_pages import run_page

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "use-fastapi.md"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own test passes, and its dependencies and middleware do what it says."""
    monkeypatch.chdir(tmp_path)

    names = run_page(PAGE)

    names["test_create_order"]()
    assert {"/orders/corner"} == set(names["requests"])
    with TestClient(names["app"]) as client:
        assert 401 == client.get("/me").status_code
        answer = client.get("/me", headers={"authorization": "Bearer t1"})
        assert "the user of t1" == answer.json()
        assert 404 == client.get("/shops/nowhere").status_code
        assert "Corner Street 1" == client.get("/shops/corner").json()
