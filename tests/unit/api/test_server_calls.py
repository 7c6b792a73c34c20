"""What needs the server of an engine is refused by the embedded one, which has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.ai import AIModel
from durable_core.api.step import step, sync_step
from durable_core.errors import StepUsageError
from durable_core.flow.server_calls import GatewayCall, ServerFunction, ServerGateway
from durable_core.http.request import Request
from support.harness import lab

FUNCTION = ServerFunction("billing-charge")
GATEWAY = ServerGateway()
MODEL = AIModel(name="m", url="http://localhost/v1", api_format="openai", api_key="a secret")

#: Calls of steps, for the steps of either kind of handler; and what the error says.
CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "invoke": (
        lambda steps: steps.invoke("call", FUNCTION, {}),
        "step 'call': ServerFunction(function_id='billing-charge') is a function of a server, and "
        "the embedded engine has none; give it an endpoint of this application",
    ),
    "fetch": (
        lambda steps: steps.fetch("call", "http://localhost/", client=GATEWAY),
        "step 'call': client= is the gateway of a server, and the embedded engine has none; leave "
        "client= out, or give an HTTP client",
    ),
    "infer": (
        lambda steps: steps.ai.infer("call", model=MODEL, body={}, client=GATEWAY),
        "step 'call': client= is the gateway of a server, and the embedded engine has none; leave "
        "client= out, or give an HTTP client",
    ),
}


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("case", CASES)
def test_the_embedded_engine_refuses(kind: str, case: str) -> None:
    """The error names the engine and the remedy, and the step has not begun."""
    call, says = CASES[case]

    def plain(request: Request) -> str:
        with pytest.raises(StepUsageError) as refused:
            call(sync_step)
        return str(refused.value)

    async def asynchronous(request: Request) -> str:
        with pytest.raises(StepUsageError) as refused:
            await call(step)
        return str(refused.value)

    with lab() as process:
        answer = process.call(process.endpoint(plain if kind == "def" else asynchronous))

    assert isinstance(answer.body, bytes)
    assert says == json.loads(answer.body)


def test_no_secret_is_shown() -> None:
    """Neither the key nor headers nor the body of a call are in its ``repr``."""
    call = GatewayCall(
        method="POST",
        url="http://localhost/",
        headers={"authorization": "a secret"},
        body='"a secret"',
        model_format="openai",
        key=lambda: "a secret",
    )
    assert "secret" not in repr(call)
