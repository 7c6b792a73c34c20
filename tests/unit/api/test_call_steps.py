"""``step.options(...)`` of steps that call a service or a model; other steps have no options."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from durable_core.ai import Inference, openai
from durable_core.api.step import step, sync_step
from durable_core.errors import ServerStatusError, StepError
from durable_core.http.request import Request
from durable_core.http.response import FetchedResponse, Response
from support.harness import lab
from support.service import Service, service

both = pytest.mark.parametrize("kind", ["def", "async def"])
ANSWER = {"choices": [{"message": {"content": "Hello"}}]}


@dataclass
class Summary:
    title: str


def ask(prompt: str, *, model: str) -> Any:
    return {"title": f"{prompt} {model}"}


def infer(other: Service, **more: Any) -> dict[str, Any]:
    model = openai("m1", api_key="k", base_url=other.url)
    return {"model": model, "body": {"messages": []}, **more}


def calling(kind: str, what: str, other: Service, options: dict[str, Any], **more: Any) -> Any:
    """Return a handler whose step calls with options; it answers with the error of the step."""

    def plain(asked: Request) -> object:
        some: Any = sync_step.options(**options)
        try:
            if what == "fetch":
                return some.fetch("call", other.url, **more).status
            return some.ai.infer("call", **infer(other, **more)).text
        except StepError as error:
            return [error.name, error.message]

    async def asynchronous(asked: Request) -> object:
        some: Any = step.options(**options)
        try:
            if what == "fetch":
                return (await some.fetch("call", other.url, **more)).status
            return (await some.ai.infer("call", **infer(other, **more))).text
        except StepError as error:
            return [error.name, error.message]

    return plain if kind == "def" else asynchronous


def value(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


@both
@pytest.mark.parametrize("what", ["fetch", "infer"])
@pytest.mark.parametrize(
    ("options", "more", "calls"),
    [
        ({"retries": 1}, {}, 2),
        ({"retries": 1}, {"retries": 0}, 1),
        ({"at_most_once": True}, {}, 1),
        ({"retry_if": lambda error: not isinstance(error, ServerStatusError)}, {}, 1),
    ],
    ids=["retries", "those of the call", "at most once", "retry_if"],
)
def test_how_often(
    kind: str, what: str, options: dict[str, Any], more: dict[str, Any], calls: int
) -> None:
    """As for step.run; what the call itself says goes before."""
    with service(lambda *_: (503, {}, b"")) as other, lab() as process:
        handler = calling(kind, what, other, options, **more)
        answer = process.call(process.endpoint(handler, retries=2))

    assert "ServerStatusError" == value(answer)[0]
    assert calls == len(other.asked)


@both
@pytest.mark.parametrize("what", ["fetch", "infer"])
@pytest.mark.parametrize(("options", "more"), [({"timeout": "100ms"}, {}), ({}, {"timeout": 0.1})])
def test_for_how_long(kind: str, what: str, options: dict[str, Any], more: dict[str, Any]) -> None:
    """An attempt ends in time, wherever the time-out is given."""
    over = threading.Event()

    def wait(*_: object) -> tuple[int, dict[str, str], bytes]:
        over.wait(10)
        return 200, {}, b"{}"

    with service(wait) as other, lab() as process:
        handler = calling(kind, what, other, {"retries": 0, **options}, **more)
        answer = process.call(process.endpoint(handler))
        over.set()

    assert "took longer than 0.1 s" in value(answer)[1] or "Timeout" in value(answer)[0]


@both
def test_it_is_undone(kind: str) -> None:
    """With what the handler got: the response, the model's answer, the output."""
    undone: list[object] = []
    answer = json.dumps(ANSWER).encode()

    def plain(asked: Request) -> object:
        some = sync_step.options(undo=undone.append)
        some.fetch("fetch", other.url)
        some.ai.infer("infer", **infer(other))
        some.ai.wrap("wrap", ask, "hi", model="m1")
        raise ValueError("the end")

    async def asynchronous(asked: Request) -> object:
        some = step.options(undo=undone.append)
        await some.fetch("fetch", other.url)
        await some.ai.infer("infer", **infer(other))
        await some.ai.wrap("wrap", ask, "hi", model="m1")
        raise ValueError("the end")

    with service(lambda *_: (200, {}, answer)) as other, lab() as process:
        handler: Callable[[Request], Any] = plain if kind == "def" else asynchronous
        problem = value(process.call(process.endpoint(handler, retries=0)))

    assert ["wrap", "infer", "fetch"] == problem["undone"]
    wrapped, inference, response = undone
    assert {"title": "hi m1"} == wrapped
    assert isinstance(inference, Inference)
    assert isinstance(response, FetchedResponse)
    assert answer == response.body


@both
def test_a_wrapped_call_has_a_type(kind: str) -> None:
    """That of step.options(result=) where the function says none, in a replay, too."""

    def plain(asked: Request) -> object:
        got = sync_step.options(result=Summary).ai.wrap("ask", ask_typed, "hi", model="m1")
        sync_step.sleep("nap", "1ms")
        return got.title

    async def asynchronous(asked: Request) -> object:
        got = await step.options(result=Summary).ai.wrap("ask", ask_typed, "hi", model="m1")
        await step.sleep("nap", "1ms")
        return got.title

    def ask_typed(prompt: str, *, model: str) -> Any:
        return Summary(f"{prompt} {model}")

    with lab() as process:
        got = process.call(process.endpoint(plain if kind == "def" else asynchronous))

    assert "hi m1" == value(got)


@both
@pytest.mark.parametrize("what", ["fetch", "infer"])
def test_a_response_has_a_type_of_its_own(kind: str, what: str) -> None:
    """Another one is refused, as a mistake in the code."""
    with service(lambda *_: (200, {}, b"{}")) as other, lab() as process:
        answer = process.call(process.endpoint(calling(kind, what, other, {"result": Summary})))

    assert 500 == answer.status
    assert "step 'call': step.options(result=) is for functions" in value(answer)["detail"]
    assert [] == other.asked


@pytest.mark.parametrize("some", [step.options(retries=1), sync_step.options(retries=1)])
@pytest.mark.parametrize("name", ["sleep", "wait_for_event", "invoke", "parallel"])
def test_other_steps_have_no_options(some: object, name: str) -> None:
    """That is said, and which have some."""
    with pytest.raises(AttributeError, match=rf"run, fetch, ai\.infer, .* and no '{name}'"):
        getattr(some, name)


@pytest.mark.parametrize("some", [step, sync_step])
def test_there_is_no_such_step(some: object) -> None:
    """The message says so, and nothing of options."""
    with pytest.raises(AttributeError, match=r"^there is no step\.slep; did you mean step\.sleep"):
        some.slep  # type: ignore[attr-defined] # noqa: B018
