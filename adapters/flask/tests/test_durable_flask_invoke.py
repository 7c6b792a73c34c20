"""``step.invoke`` of durable views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import flask
import pytest

from durable_core import Durable, Request
from durable_core.errors import StepArgumentError
from durable_core.sync import step
from durable_flask import FlaskApp, endpoint_adapter, install


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Durable[FlaskApp]]:
    made = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    yield made
    made.stop()


def test_a_view_is_invoked_by_a_request_of_its_route(durable: Durable[FlaskApp]) -> None:
    """Its child gets the arguments of the path and the body. A value, which has no route, is
    refused before a child begins: Flask could not find the view for it.
    """
    app = flask.Flask("shop")
    install(app, durable)
    refused: list[str] = []

    @app.post("/pay/<customer>")
    @durable.endpoint
    def pay(customer: str) -> dict[str, object]:
        amount = flask.request.get_json()["amount"]
        return {"paid": step.run("charge", lambda: [customer, amount])}

    @app.get("/buy")
    @durable.endpoint
    def buy() -> dict[str, object]:
        try:
            step.invoke("value", pay, {"amount": 3})
        except StepArgumentError as error:
            refused.append(str(error))
        headers = {"content-type": "application/json"}
        url, body = "http://localhost/pay/ann", b'{"amount": 3}'
        asked = Request(method="POST", url=url, headers=headers, body=body)
        found: dict[str, object] = step.invoke("pay", pay, asked, result=dict)
        return found

    response = app.test_client().get("/buy", follow_redirects=True)
    assert {"paid": ["ann", 3]} == response.get_json()
    assert 2 == len(durable.runs.list())
    assert "give it a Request with the method and URL of that route" in refused[0]
