"""``TestClient`` within ``durable_core.testing``: no waiting, and faults where they are wanted."""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions.

from pathlib import Path
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.testclient import TestClient

from durable_core import Durable, step
from durable_core import Request as CoreRequest
from durable_core.sync import step as sync_step
from durable_core.testing import harness
from durable_starlette import StarletteApp, endpoint_adapter

KINDS = pytest.mark.parametrize("kind", ["async", "def"])


@pytest.fixture
def durable(tmp_path: Path) -> Durable[StarletteApp]:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")


def current_user() -> str:
    raise HTTPException(401)


User = Annotated[str, Depends(current_user)]


@pytest.fixture
def app(durable: Durable[StarletteApp]) -> FastAPI:
    """An application with an order of each kind, and a dependency for a test to override."""
    app = FastAPI(lifespan=durable.lifespan)

    @app.post("/async/{name}", status_code=201)
    @durable.endpoint
    async def order(name: str, user: User) -> list[object]:
        number = await step.run("save", lambda: f"{name} of {user}")
        await step.sleep("pack", "24h")
        event = await step.wait_for_event("sent", event="sent", timeout="2 days")
        return [number, "nobody" if event is None else event.data["by"]]

    @app.post("/def/{name}", status_code=201)
    @durable.endpoint
    def order_in_thread(name: str, user: User) -> list[object]:
        number = sync_step.run("save", lambda: f"{name} of {user}")
        sync_step.sleep("pack", "24h")
        event = sync_step.wait_for_event("sent", event="sent", timeout="2 days")
        return [number, "nobody" if event is None else event.data["by"]]

    app.dependency_overrides[current_user] = lambda: "ann"
    return app


@KINDS
def test_a_test_without_waiting(durable: Durable[StarletteApp], app: FastAPI, kind: str) -> None:
    """The clock of the harness ends the sleep; an overridden dependency holds in the replay."""
    with harness(durable) as t, TestClient(app) as client:
        handed_off = client.post(f"/{kind}/tea", follow_redirects=False)
        assert 303 == handed_off.status_code
        t.advance("24h")
        t.send("sent", {"by": "bike"})
        response = client.get(str(handed_off.url.join(handed_off.headers["location"])))
        assert (201, ["tea of ann", "bike"]) == (response.status_code, response.json())
        assert ["save", "pack", "sent"] == [each.name for each in t.steps(t.runs()[0].id)]


@KINDS
def test_a_planned_crash(durable: Durable[StarletteApp], app: FastAPI, kind: str) -> None:
    """After a crash the run is replayed through the application, and the step is not repeated."""
    with harness(durable) as t, TestClient(app, raise_server_exceptions=False) as client:
        t.crash_after("save")
        client.post(f"/{kind}/tea", follow_redirects=False)
        t.advance("24h")
        t.send("sent", {"by": "bike"})
        [run] = t.runs()
        assert "completed" == run.status
        assert [1, 0, 0] == [each.calls for each in t.steps(run.id)]


@KINDS
def test_authorize_and_a_dependency(durable: Durable[StarletteApp], kind: str) -> None:
    """``authorize=`` is asked once, before the run; the dependency in each execution."""
    app = FastAPI(lifespan=durable.lifespan)
    log: list[str] = []

    def authorize(request: CoreRequest) -> str | bool:
        log.append("authorize")
        return request.headers.get("x-user") or False

    def checked(x_tenant: Annotated[str | None, Header()] = None) -> str:
        log.append("dependency")
        if x_tenant is None:
            raise HTTPException(400, "which tenant?")
        return x_tenant

    @app.get("/async")
    @durable.endpoint(authorize=authorize)
    async def in_task(tenant: Annotated[str, Depends(checked)]) -> str:
        await step.sleep("nap", "1h")
        return tenant

    @app.get("/def")
    @durable.endpoint(authorize=authorize)
    def in_thread(tenant: Annotated[str, Depends(checked)]) -> str:
        sync_step.sleep("nap", "1h")
        return tenant

    with harness(durable) as t, TestClient(app, follow_redirects=False) as client:
        assert 400 == client.get(f"/{kind}", headers={"x-user": "ann"}).status_code
        assert 403 == client.get(f"/{kind}", headers={"x-tenant": "shop"}).status_code
        assert ["dependency", "dependency", "authorize"] == log
        assert [] == list(t.runs())
        log.clear()
        handed_off = client.get(f"/{kind}", headers={"x-user": "ann", "x-tenant": "shop"})
        t.advance("1h")
        final = client.get(str(handed_off.url.join(handed_off.headers["location"])))
        assert "shop" == final.json()
        assert ["dependency", "authorize", "dependency"] == log


@KINDS
def test_who_it_is_in_a_replay(durable: Durable[StarletteApp], kind: str) -> None:
    """A dependency lets a replay pass; the first step stores who it is, and no header is stored."""
    app = FastAPI(lifespan=durable.lifespan)

    def token(authorization: Annotated[str | None, Header()] = None) -> str | None:
        if authorization is None and not durable.is_replaying():
            raise HTTPException(401)
        return authorization

    @app.get("/async")
    @durable.endpoint
    async def in_task(token: Annotated[str | None, Depends(token)]) -> list[str | None]:
        user = await step.run("who", lambda: f"the user of {token}")
        await step.sleep("nap", "1h")
        return [user, token]

    @app.get("/def")
    @durable.endpoint
    def in_thread(token: Annotated[str | None, Depends(token)]) -> list[str | None]:
        user = sync_step.run("who", lambda: f"the user of {token}")
        sync_step.sleep("nap", "1h")
        return [user, token]

    with harness(durable) as t, TestClient(app, follow_redirects=False) as client:
        assert 401 == client.get(f"/{kind}").status_code
        handed_off = client.get(f"/{kind}", headers={"authorization": "t1"})
        t.advance("1h")
        final = client.get(str(handed_off.url.join(handed_off.headers["location"])))
        assert ["the user of t1", None] == final.json()
