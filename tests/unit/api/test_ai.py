"""``step.ai``: models are asked once, their keys stay secret, and people see what was asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from durable_core.ai import AIModel, Inference, TokenUsage, anthropic, openai
from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import Lab, lab
from support.service import Asked, service

both = pytest.mark.parametrize("kind", ["def", "async def"])
KEY = "sk-very-secret"
OPENAI = {
    "choices": [{"message": {"role": "assistant", "content": "Hello"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}
ANTHROPIC = {
    "content": [{"type": "text", "text": "Hel"}, {"type": "x"}, {"type": "text", "text": "lo"}],
    "usage": {"input_tokens": 7, "output_tokens": 2},
}


@dataclass
class Summary:
    title: str


def value(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def inferring(kind: str, model: Any, body: Any = None, **options: Any) -> Callable[[Request], Any]:
    asked_body = {"messages": [{"role": "user", "content": "Hi"}]} if body is None else body

    def plain(asked: Request) -> object:
        got = sync_step.ai.infer("ask", model=model, body=asked_body, **options)
        sync_step.sleep("nap", "1ms")
        return [got.text, got.model, got.usage.input_tokens, got.usage.output_tokens]

    async def asynchronous(asked: Request) -> object:
        got = await step.ai.infer("ask", model=model, body=asked_body, **options)
        await step.sleep("nap", "1ms")
        return [got.text, got.model, got.usage.input_tokens, got.usage.output_tokens]

    return plain if kind == "def" else asynchronous


def known_of(process: Lab) -> str:
    """Return all that is shown and stored of the runs."""
    runs = process.durable.runs.list()
    shown = [
        repr((process.durable.runs.get(r.id), process.durable.runs.history(r.id))) for r in runs
    ]
    stored = [repr(process.records.get(r.id)) for r in runs]
    return "".join([*shown, *stored])


@both
@pytest.mark.parametrize(
    ("make", "answer", "path", "header"),
    [
        (openai, OPENAI, "/chat/completions", ("authorization", f"Bearer {KEY}")),
        (anthropic, ANTHROPIC, "/v1/messages", ("x-api-key", KEY)),
    ],
)
def test_a_model_is_asked_once(
    kind: str,
    make: Callable[..., AIModel],
    answer: object,
    path: str,
    header: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer and its tokens are kept with the step; the key is nowhere."""
    with (
        service(lambda *_: (200, {}, json.dumps(answer).encode())) as other,
        lab() as process,
        caplog.at_level(logging.DEBUG),
    ):
        model = make("m1", api_key=KEY, base_url=other.url)
        got = process.call(process.endpoint(inferring(kind, model), record_arguments=True))
        [run] = process.durable.runs.list()
        result: Any = process.durable.runs.get(run.id).steps[0].result
        known = known_of(process)

    assert ["Hello", "m1", 7, 2] == value(got)
    [asked] = other.asked
    assert (path, header[1]) == (asked.path, asked.headers[header[0]])
    body = json.loads(asked.body)
    assert {"model": "m1", "messages": [{"role": "user", "content": "Hi"}]} == body
    assert {"input_tokens": 7, "output_tokens": 2} == result["usage"]
    assert "m1" == result["model"]
    assert KEY not in known + caplog.text + repr(model)


@both
def test_a_busy_model_is_asked_again(kind: str) -> None:
    """As by step.fetch, with a key that is read for each attempt."""
    keys = iter(["k1", "k2"])

    def serve(asked: Asked, number: int) -> tuple[int, dict[str, str], bytes]:
        return (529, {}, b"") if number == 1 else (200, {}, json.dumps(ANTHROPIC).encode())

    with service(serve) as other, lab() as process:
        model = anthropic("m1", api_key=lambda: next(keys), base_url=other.url)
        got = process.call(process.endpoint(inferring(kind, model)))

    assert "Hello" == value(got)[0]
    assert ["k1", "k2"] == [asked.headers["x-api-key"] for asked in other.asked]
    assert 1 == len({asked.headers["idempotency-key"] for asked in other.asked})


@both
def test_a_refusal_is_final(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the model says is in the error, without the key that it repeats."""
    text = json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()
    with service(lambda *_: (401, {}, text)) as other, lab() as process:
        model = openai("m1", api_key=KEY, base_url=other.url)
        got = process.call(process.endpoint(inferring(kind, model)))
        known = known_of(process)

    assert 500 == got.status
    assert "answered 401" in value(got)["detail"]
    assert "bad key ..." in value(got)["detail"]
    assert KEY not in value(got)["detail"] + known + caplog.text
    assert 1 == len(other.asked)


@both
@pytest.mark.parametrize("body", [b"", b"[1]", b"no JSON"])
def test_an_answer_that_is_no_object(kind: str, body: bytes) -> None:
    """That is final, too."""
    with service(lambda *_: (200, {}, body)) as other, lab() as process:
        model = openai("m1", api_key=KEY, base_url=other.url)
        got = process.call(process.endpoint(inferring(kind, model)))

    assert "answered something else than JSON" in value(got)["detail"]


@both
def test_a_missing_key_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is read when a call is made."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with lab() as process:
        got = process.call(process.endpoint(inferring(kind, openai("m1"))))
        assert "set OPENAI_API_KEY, or openai(api_key=)" in value(got)["detail"]


@both
@pytest.mark.parametrize(
    "key",
    [f"{KEY}\n", f"{KEY} é", "", lambda: 7],
    ids=["line end", "not ASCII", "empty", "no text"],
)
def test_a_key_that_cannot_be_sent(kind: str, key: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No retry mends it, and it is not shown."""
    with service(lambda *_: (200, {}, json.dumps(OPENAI).encode())) as other, lab() as process:
        model = openai("m1", api_key=key, base_url=other.url)
        got = process.call(process.endpoint(inferring(kind, model)))
        known = known_of(process)

    assert "the key of the model 'm1' must be a text of printable" in value(got)["detail"]
    assert [] == other.asked
    assert KEY not in value(got)["detail"] + known + caplog.text


@both
@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"message": "no credit", "code": 402}},
        {"type": "error", "error": {"type": "overloaded_error", "message": "no credit"}},
    ],
    ids=["openai", "anthropic"],
)
def test_an_error_with_the_status_200(kind: str, answer: object) -> None:
    """Some servers do that; it is a refusal, not an answer without text."""
    with service(lambda *_: (200, {}, json.dumps(answer).encode())) as other, lab() as process:
        model = openai("m1", api_key=KEY, base_url=other.url)
        got = process.call(process.endpoint(inferring(kind, model)))

    assert 500 == got.status
    assert "answered 200" in value(got)["detail"]
    assert "no credit" in value(got)["detail"]
    assert 1 == len(other.asked)


def test_an_answer_whose_error_is_null() -> None:
    """That is no error."""
    answer = json.dumps({**OPENAI, "error": None}).encode()
    with service(lambda *_: (200, {}, answer)) as other, lab() as process:
        model = openai("m1", api_key=KEY, base_url=other.url)
        got = process.call(process.endpoint(inferring("def", model)))
    assert "Hello" == value(got)[0]


@pytest.mark.parametrize(
    ("model", "body", "text"),
    [
        ("gpt-4o", {}, "model must be one of durable_core.ai"),
        (openai("m", api_key="k"), [], "body must be a dict"),
        (openai("m", api_key="k"), {"stream": True}, "must not ask for a stream"),
        (openai("m", api_key="k"), {"model": "n"}, "must not name the model"),
        (openai("m", api_key="k"), {"messages": object()}, "$"),
        (openai("m", api_key="k", base_url="nowhere"), {}, "url must be absolute"),
    ],
)
@both
def test_bad_arguments(kind: str, model: Any, body: Any, text: str) -> None:
    """Each is a mistake that no retry mends."""
    with lab() as process:
        got = process.call(process.endpoint(inferring(kind, model, body)))

    assert 500 == got.status
    assert text in value(got)["detail"]


def test_models_check_what_they_are_made_of() -> None:
    """A name, and a known form; the key is not shown."""
    with pytest.raises(ValueError, match="name of a model"):
        openai("")
    with pytest.raises(ValueError, match="api_format"):
        AIModel(name="m", url="http://x/", api_format="other")  # type: ignore[arg-type]
    assert KEY not in repr(openai("m", api_key=KEY))


def test_what_an_answer_may_leave_out() -> None:
    """Tokens that are not counted are None; without a text there is none."""
    answer = Inference.of_answer("m", {"choices": []})
    assert (TokenUsage(None, None), "") == (answer.usage, answer.text)
    assert answer == Inference.load(answer.dump())
    assert "" == Inference.of_answer("m", {"content": "x", "usage": 7}).text


@both
@pytest.mark.parametrize("is_coroutine", [False, True])
def test_a_wrapped_call_is_shown(kind: str, is_coroutine: bool) -> None:
    """Model, input and output are kept; secrets and what is no JSON are not."""
    calls: list[str] = []

    def ask(text: str, *, model: str, api_key: str, tools: object, max_tokens: int) -> Summary:
        calls.append(text)
        return Summary(text.upper())

    async def ask_async(
        text: str, *, model: str, api_key: str, tools: object, max_tokens: int
    ) -> Summary:
        return ask(text, model=model, api_key=api_key, tools=tools, max_tokens=max_tokens)

    fields: dict[str, Any] = {"model": "m1", "api_key": KEY, "tools": len, "max_tokens": 5}

    def plain(asked: Request) -> object:
        got = sync_step.ai.wrap("ask", ask, "hi", **fields)
        sync_step.sleep("nap", "1ms")
        return got.title

    async def asynchronous(asked: Request) -> object:
        got: Any = await step.ai.wrap("ask", ask_async if is_coroutine else ask, "hi", **fields)
        await step.sleep("nap", "1ms")
        return got.title

    with lab() as process:
        got = process.call(process.endpoint(plain if kind == "def" else asynchronous))
        [run] = process.durable.runs.list()
        result: Any = process.durable.runs.get(run.id).steps[0].result
        known = known_of(process)

    assert "HI" == value(got)
    assert ["hi"] == calls
    assert ("m1", {"title": "HI"}) == (result["model"], result["output"])
    assert ["hi"] == result["input"]["args"]
    expected = {"model": "m1", "api_key": "...", "tools": repr(len), "max_tokens": 5}
    assert expected == result["input"]["kwargs"]
    assert KEY not in known


@both
def test_secrets_inside_arguments_are_left_out(kind: str) -> None:
    """Also in headers and settings; what is no JSON is shown by its repr where it is."""
    loop: dict[str, Any] = {"n": 1}
    loop["again"] = loop
    fields: dict[str, Any] = {
        "headers": {"Authorization": KEY, "x": 1, "Cookie": KEY},
        "config": ({"api_key": KEY, "top_k": 5, "fn": len}, [[{"password": KEY}]]),
        "loop": loop,
    }

    def ask(**given: object) -> str:
        return str(len(given))

    def plain(asked: Request) -> object:
        return sync_step.ai.wrap("ask", ask, **fields)

    async def asynchronous(asked: Request) -> object:
        return await step.ai.wrap("ask", ask, **fields)

    with lab() as process:
        got = process.call(process.endpoint(plain if kind == "def" else asynchronous))
        [run] = process.durable.runs.list()
        result: Any = process.durable.runs.get(run.id).steps[0].result
        known = known_of(process)

    assert "3" == value(got)
    kept = result["input"]["kwargs"]
    assert {"Authorization": "...", "x": 1, "Cookie": "..."} == kept["headers"]
    shown = {"api_key": "...", "top_k": 5, "fn": repr(len)}
    assert [shown, [[{"password": "..."}]]] == kept["config"]
    assert KEY not in known


@both
def test_a_wrapped_call_that_fails_is_tried_again(kind: str) -> None:
    """As by step.run; a large input is left out."""
    calls: list[int] = []

    def ask(text: str) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("busy")
        return len(text)

    def plain(asked: Request) -> object:
        return sync_step.ai.wrap("ask", ask, "x" * 70_000)

    async def asynchronous(asked: Request) -> object:
        return await step.ai.wrap("ask", ask, "x" * 70_000)

    with lab() as process:
        got = process.call(process.endpoint(plain if kind == "def" else asynchronous))
        [run] = process.durable.runs.list()
        result: Any = process.durable.runs.get(run.id).steps[0].result

    assert 70_000 == value(got)
    assert 2 == len(calls)
    assert {"left_out": True} == result["input"]


@both
@pytest.mark.parametrize("fn", [7, lambda: object()])
def test_what_cannot_be_wrapped(kind: str, fn: Any) -> None:
    """No function; or one whose result cannot be stored, which is not called again."""

    def plain(asked: Request) -> object:
        return sync_step.ai.wrap("ask", fn)

    async def asynchronous(asked: Request) -> object:
        return await step.ai.wrap("ask", fn)

    with lab() as process:
        got = process.call(process.endpoint(plain if kind == "def" else asynchronous))

    assert 500 == got.status
    assert "step 'ask'" in value(got)["detail"]
