"""Endpoints in Django and Flask under gunicorn, with what the frameworks need around them."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urljoin

import pytest

from support.harness import until
from support.server_processes import GUNICORN, Server, serving

pytestmark = pytest.mark.slow

THREADS = (*GUNICORN, "--config=FOLDER/gunicorn.conf.py", "--worker-class=gthread", "--threads=4")


def result_of(server: Server, path: str) -> object:
    """Make a request, and go where redirects lead."""
    answer = server.get(path)
    while answer.status in (302, 303):
        answer = server.get(urljoin(path, answer.location))
    assert 200 == answer.status, answer
    return json.loads(answer.body)


def open_databases(server: Server) -> int:
    """Return how many connections to Django's database the server's worker has open."""
    [pid] = {each["pid"] for each in server.health()}
    links = (each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink())
    return sum(link.name == "django.sqlite3" for link in links)


def test_flask(tmp_path: Path) -> None:
    """Steps have the application's context, also where the run goes on in another thread."""
    with serving(tmp_path, (*THREADS, "support.frameworks_app:flask_application()")) as server:
        assert ["EUR", "EUR"] == result_of(server, "/shop/order")
        assert "hello" == server.get("/hello").body
        server.terminate()


@pytest.mark.parametrize("closes", [True, False])
def test_django_connections(closes: bool, tmp_path: Path) -> None:
    """No thread keeps a database connection, if each execution closes them as a request does."""
    application = f"support.frameworks_app:django_application(closes={closes})"
    with serving(tmp_path, (*THREADS, application)) as server:
        assert [[1, 1]] * 3 == [result_of(server, "/shop/order") for _ in range(3)]
        until(lambda: server.health()[0]["live_runs"] == 0)
        assert closes == (open_databases(server) == 0)
        server.terminate()
