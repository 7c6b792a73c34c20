"""What the server does for a step: functions of other applications, and calls that it makes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest

from durable_core import NonRetriableError, Request, StepError, step, sync
from durable_core.ai import AIModel, openai
from durable_core.errors import ConfigurationError, StepArgumentError, StepUsageError
from durable_inngest import InngestFunction, InngestGateway
from support.inngest_app import serving
from support.inngest_server import InngestServer
from support.service import Asked, service

pytestmark = pytest.mark.slow

CHARGE = InngestFunction("billing", "charge")
GATEWAY = InngestGateway()


@dataclass
class Paid:
    id: str
    amount: int


async def charge(data: dict[str, Any]) -> object:
    return {"id": "p-1", "amount": data["amount"]}


async def refuse(data: dict[str, Any]) -> object:
    raise ValueError("the card is stolen")


async def hang(data: dict[str, Any]) -> object:
    await asyncio.sleep(60)
    return None


# --- step.invoke ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_function_of_the_server_is_invoked(server: InngestServer, kind: str) -> None:
    """Its result is that of the step, as the type that is asked for; it runs once."""
    calls: list[dict[str, Any]] = []

    async def counted(data: dict[str, Any]) -> object:
        calls.append({name: value for name, value in data.items() if name != "_inngest"})
        return await charge(data)

    server.functions["billing-charge"] = counted

    async def pay(request: Request) -> list[Any]:
        paid = await step.invoke("pay", CHARGE, {"amount": 20}, timeout="1h", result=Paid)
        return [paid.id, paid.amount, await step.run("after", lambda: "after")]

    def pay_sync(request: Request) -> list[Any]:
        paid = sync.step.invoke("pay", CHARGE, {"amount": 20}, timeout="1h", result=Paid)
        return [paid.id, paid.amount, sync.step.run("after", lambda: "after")]

    with serving(server, {"GET /pay": pay if kind == "async" else pay_sync}) as app:
        got = app.follow("GET", "/pay")

    assert (200, ["p-1", 20, "after"]) == (got.status, got.json)
    assert [{"amount": 20}] == calls


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (refuse, ["ValueError", "the card is stolen"]),
        (None, ["Error", "could not find function with ID: billing-charge"]),
        (
            hang,
            ["InngestInvokeTimeoutError", "Timed out waiting for invoked function to complete"],
        ),
    ],
)
def test_a_function_that_does_not_succeed_is_a_step_error(
    server: InngestServer, function: Any, expected: list[str]
) -> None:
    """One that fails, one that is not there, and one that takes too long."""
    if function is not None:
        server.functions["billing-charge"] = function

    async def pay(request: Request) -> list[str]:
        try:
            await step.invoke("pay", CHARGE, timeout="100ms")
        except StepError as error:
            return [error.name, error.message]
        return []

    with serving(server, {"GET /pay": pay}) as app:
        got = app.follow("GET", "/pay")

    assert (200, expected) == (got.status, got.json)


def test_functions_are_invoked_side_by_side(server: InngestServer) -> None:
    """Each once, and the handler goes on with all of them."""
    calls: list[int] = []

    async def counted(data: dict[str, Any]) -> object:
        calls.append(data["amount"])
        return data["amount"] * 2

    server.functions["billing-charge"] = counted

    async def pay(request: Request) -> list[Any]:
        return await asyncio.gather(
            *[step.invoke(f"pay-{n}", CHARGE, {"amount": n}) for n in range(3)]
        )

    with serving(server, {"GET /pay": pay}) as app:
        got = app.follow("GET", "/pay")

    assert (200, [0, 2, 4]) == (got.status, got.json)
    assert [0, 1, 2] == sorted(calls)


@pytest.mark.parametrize("data", [[1], "text", {"a": {1}}, {"a": "x" * 300_000}])
def test_what_a_function_is_given_must_be_an_object(server: InngestServer, data: Any) -> None:
    """The server would crash, or never go on; so nothing is sent to it."""

    async def pay(request: Request) -> str:
        try:
            await step.invoke("pay", CHARGE, data)
        except StepArgumentError as error:
            return str(error)
        return ""

    with serving(server, {"GET /pay": pay}) as app:
        got = app.get("/pay")

    assert 200 == got.status
    assert "step 'pay' gives a function of a server" in got.json


@pytest.mark.parametrize(("app", "id"), [("", "charge"), ("billing", ""), (None, "charge")])
def test_a_function_has_an_application_and_an_id(app: Any, id: Any) -> None:
    """Anything else is refused where it is made."""
    with pytest.raises(ConfigurationError, match="must be a text"):
        InngestFunction(app, id)


def test_an_endpoint_is_not_invoked(server: InngestServer) -> None:
    """The server cannot begin a run of an endpoint by itself; the error names the remedy."""

    async def child(request: Request) -> str:
        return "child"

    async def parent(request: Request) -> str:
        try:
            await step.invoke("child", child)
        except StepUsageError as error:
            return str(error)
        return ""

    with serving(server, {"GET /parent": parent}) as app:
        got = app.get("/parent")

    assert "step 'child': InngestEngine" in got.json


# --- the gateways ---------------------------------------------------------------------------------


def echo(asked: Asked, number: int) -> tuple[int, dict[str, str], bytes]:
    seen = {"method": asked.method, "auth": asked.headers.get("authorization")}
    body = json.dumps({**seen, "body": asked.body.decode(), "n": number}).encode()
    return 200, {"content-type": "application/json", "set-cookie": "a=b"}, body


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_the_server_fetches(server: InngestServer, kind: str) -> None:
    """The service is called once, by the server; the response is that of any ``step.fetch``."""
    with service(echo) as other:
        call: dict[str, Any] = {
            "method": "POST",
            "headers": {"authorization": "Bearer k"},
            "json": {"a": 1},
            "client": GATEWAY,
        }

        async def fetches(request: Request) -> list[Any]:
            got = await step.fetch("ask", other.url, **call)
            return [got.status, got.json(), "set-cookie" in got.headers]

        def fetches_sync(request: Request) -> list[Any]:
            got = sync.step.fetch("ask", other.url, **call)
            return [got.status, got.json(), "set-cookie" in got.headers]

        with serving(server, {"GET /a": fetches if kind == "async" else fetches_sync}) as app:
            got = app.follow("GET", "/a")

    sent = {"method": "POST", "auth": "Bearer k", "body": '{"a":1}', "n": 1}
    assert (200, [200, sent, False]) == (got.status, got.json)
    assert 1 == len(other.asked)
    assert "idempotency-key" in other.asked[0].headers


@pytest.mark.parametrize(
    ("status", "expected"),
    [(404, [404, "no"]), (503, ["ServerStatusError", {"status": 503}]), (429, None)],
)
def test_a_status_of_a_fetch_by_the_server(
    server: InngestServer, status: int, expected: Any
) -> None:
    """The server does not try again for one: 429 and 5xx are the error of the step at once."""

    async def fetches(request: Request) -> list[Any]:
        try:
            got = await step.fetch("ask", other.url, client=GATEWAY)
        except StepError as error:
            return [error.name, error.data]
        return [got.status, got.text()]

    with (
        service(lambda asked, number: (status, {}, b"no")) as other,
        serving(server, {"GET /a": fetches}) as app,
    ):
        got = app.follow("GET", "/a")

    assert (expected or ["ServerStatusError", {"status": 429}]) == got.json
    assert 1 == len(other.asked)


def test_a_service_that_is_not_there(server: InngestServer) -> None:
    """The server tries as often as the endpoint says; then the step has failed."""

    async def fetches(request: Request) -> str:
        try:
            await step.fetch("ask", "http://127.0.0.1:1/", client=GATEWAY)
        except StepError as error:
            return error.name
        return ""

    with serving(server, {"GET /a": fetches}, options={"retries": 1}) as app:
        got = app.follow("GET", "/a")

    assert "GatewayError" == got.json
    assert 2 == sum("op Gateway" in each for each in server.run.history)


def _model(url: str, **options: Any) -> AIModel:
    return AIModel(name="m", url=url, api_format="openai", api_key="secret", **options)


ANSWER = {"choices": [{"message": {"content": "hello"}}], "usage": {"prompt_tokens": 3}}


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_the_server_asks_a_model(server: InngestServer, kind: str) -> None:
    """A failure is tried again by the server; the answer has its text and its tokens."""

    def answers(asked: Asked, number: int) -> tuple[int, dict[str, str], bytes]:
        return (500, {}, b"{}") if number == 1 else (200, {}, json.dumps(ANSWER).encode())

    with service(answers) as other:
        call: dict[str, Any] = {
            "model": _model(other.url),
            "body": {"messages": []},
            "client": GATEWAY,
        }

        async def asks(request: Request) -> list[Any]:
            answer = await step.ai.infer("ask", **call)
            return [answer.text, answer.usage.input_tokens, answer.model]

        def asks_sync(request: Request) -> list[Any]:
            answer = sync.step.ai.infer("ask", **call)
            return [answer.text, answer.usage.input_tokens, answer.model]

        with serving(server, {"GET /a": asks if kind == "async" else asks_sync}) as app:
            got = app.follow("GET", "/a")

    assert (200, ["hello", 3, "m"]) == (got.status, got.json)
    asked = [(each.headers["authorization"], json.loads(each.body)) for each in other.asked]
    assert 2 * [("Bearer secret", {"model": "m", "messages": []})] == asked


def test_a_model_that_refuses(server: InngestServer) -> None:
    """What it says is the data of the error."""

    async def asks(request: Request) -> list[Any]:
        try:
            await step.ai.infer("ask", model=_model(other.url), body={}, client=GATEWAY)
        except StepError as error:
            return [error.name, error.data]
        return []

    with (
        service(lambda asked, number: (400, {}, b'{"error":"no such model"}')) as other,
        serving(server, {"GET /a": asks}, options={"retries": 0}) as app,
    ):
        got = app.follow("GET", "/a")

    assert ["AIGatewayError", {"error": "no such model"}] == got.json


def test_a_model_without_a_key(server: InngestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, and the server is not told of the call."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    async def asks(request: Request) -> str:
        try:
            await step.ai.infer("ask", model=openai("m"), body={}, client=GATEWAY)
        except NonRetriableError as error:
            return str(error)
        return ""

    with serving(server, {"GET /a": asks}) as app:
        got = app.follow("GET", "/a")

    assert "there is no key for the model 'm': set OPENAI_API_KEY, or openai(api_key=)" == got.json
    assert not any("AIGateway" in each for each in server.run.history)


def test_calls_by_the_server_side_by_side(server: InngestServer) -> None:
    """Each is made once, though the endpoint is called meanwhile: a call may cost money."""

    async def fetches(request: Request) -> list[Any]:
        first, _, second = await asyncio.gather(
            step.fetch("one", f"{other.url}/1", client=GATEWAY),
            step.sleep("nap", "10ms"),
            step.fetch("two", f"{other.url}/2", client=GATEWAY),
        )
        return [first.json()["n"], second.json()["n"]]

    with service(echo) as other, serving(server, {"GET /a": fetches}) as app:
        got = app.follow("GET", "/a")

    assert (200, [1, 2]) == (got.status, sorted(got.json))
    assert ["/1", "/2"] == sorted(each.path for each in other.asked)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"timeout": "5s"}, "timeout= has no form in a gateway"),
        ({"retries": 1}, "retries= has no form in a gateway"),
        ({"method": "POST", "body": b"plain text"}, "a gateway sends JSON only"),
    ],
)
def test_what_a_gateway_cannot_do_is_refused(
    server: InngestServer, given: dict[str, Any], says: str
) -> None:
    """Nothing is sent, and the error says what to leave out."""

    async def fetches(request: Request) -> str:
        try:
            await step.fetch("ask", "http://127.0.0.1:1/", client=GATEWAY, **given)
        except StepArgumentError as error:
            return str(error)
        return ""

    with serving(server, {"GET /a": fetches}) as app:
        got = app.get("/a")

    assert says in got.json


def test_a_large_answer_is_refused(server: InngestServer) -> None:
    """``max_bytes=`` holds for what the server has got, too."""

    async def fetches(request: Request) -> str:
        try:
            await step.fetch("ask", other.url, client=GATEWAY, max_bytes=10)
        except StepError as error:
            return error.name
        return ""

    with (
        service(lambda asked, number: (200, {}, b"x" * 11)) as other,
        serving(server, {"GET /a": fetches}) as app,
    ):
        got = app.follow("GET", "/a")

    assert "LimitExceededError" == got.json
