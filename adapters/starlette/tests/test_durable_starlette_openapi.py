"""The OpenAPI document of an application with durable endpoints."""
# Without "from __future__ import annotations", for FastAPI evaluates the annotations of local
# functions.

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Cookie, Depends, FastAPI, Header
from fastapi.testclient import TestClient
from pydantic import BaseModel

from durable_core import Durable
from durable_starlette import endpoint_adapter, install


class OrderIn(BaseModel):
    items: list[str]


class OrderOut(BaseModel):
    shop: str


def user(x_user: Annotated[str, Header()]) -> str:
    return x_user


def application(durable: Durable[Any] | None) -> FastAPI:
    """Return an application whose endpoints are durable, or the same one where they are not."""
    app = FastAPI(title="shop")
    wrap: Callable[[Any], Any] = (lambda it: it) if durable is None else durable.endpoint
    router = APIRouter(prefix="/v1", tags=["orders"])

    @router.post("/{shop}", response_model=OrderOut, status_code=201, responses={404: {}})
    @wrap
    async def create_order(
        shop: str,
        order: OrderIn,
        user: Annotated[str, Depends(user)],
        count: int = 3,
        tag: Annotated[str | None, Cookie()] = None,
    ) -> dict[str, str]:
        """Make an order."""
        return {"shop": shop}

    @router.get("/orders/{number}", name="show")
    @wrap
    def show_order(number: int) -> OrderOut:
        return OrderOut(shop=str(number))

    @app.put("/later", status_code=202)
    @wrap
    async def later() -> None:
        return None

    @app.get("/plain")
    async def plain() -> str:
        return "plain"

    app.include_router(router)
    return app


def test_the_document(tmp_path: Path) -> None:
    """Parameters, bodies, models and names are the same; a durable endpoint has more responses."""
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    app = application(durable)
    install(app, durable)
    install(app, durable)  # again, as by a second start
    bare, document = application(None).openapi(), app.openapi()

    more = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            known = bare["paths"][path][method]["responses"]
            shown = operation["responses"]
            assert known == {status: shown[status] for status in known}
            more[method, path] = sorted(shown.keys() - known.keys())
            operation["responses"] = known
    assert bare == document
    assert {
        ("post", "/v1/{shop}"): ["202", "303", "5XX"],
        ("get", "/v1/orders/{number}"): ["202", "302", "303", "5XX"],
        ("put", "/later"): ["303", "5XX"],
        ("get", "/plain"): [],
    } == more


def test_the_problem_type(tmp_path: Path) -> None:
    """What is shown of problems is what a client gets."""
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    app = FastAPI(lifespan=durable.lifespan)

    @app.get("/")
    @durable.endpoint(retries=0)
    async def it() -> None:
        raise LookupError("not today")

    with TestClient(app) as client:
        response = client.get("/")
        document = client.get("/openapi.json").json()
    shown = document["paths"]["/"]["get"]["responses"]["5XX"]["content"]
    assert [response.headers["content-type"]] == list(shown)
    [schema] = [each["schema"] for each in shown.values()]
    assert response.json().keys() <= schema["properties"].keys()
