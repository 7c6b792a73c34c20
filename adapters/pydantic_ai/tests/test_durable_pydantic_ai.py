"""Agents whose model calls and tool calls are steps, with pydantic-ai's models for tests."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent, DeferredToolRequests, FunctionToolset, ModelRetry
from pydantic_ai.capabilities import RequestInput
from pydantic_ai.exceptions import ModelHTTPError, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolResults, RunContext
from pydantic_ai.ui.vercel_ai import VercelAIAdapter

from durable_core import Durable, Request, Response, endpoint_adapter, step, stream
from durable_core.errors import StepError
from durable_core.stores import MemoryStore
from durable_core.sync import step as sync_step
from durable_core.testing import harness
from durable_pydantic_ai import StepDurability, answer_event, ask_in_chat

MODEL = "helper__model.request"
TOOL = "helper__function_toolset__<agent>.call_tool"


class Calls(Counter[str]):
    """Counts what models and tools did."""

    def note(self, name: str) -> int:
        self[name] += 1
        return self[name]


@pytest.fixture
def calls() -> Calls:
    return Calls()


def application() -> Durable[Any]:
    return Durable(id="agents", endpoint_adapter=endpoint_adapter, store=MemoryStore())


def returns(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    """Return the results of tools in the last request."""
    return [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]


def scripted(calls: Calls, *tools: tuple[str, dict[str, Any]]) -> FunctionModel:
    """A model that calls the tools at once, and then says what they have returned."""

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        calls.note("model")
        found = returns(messages)
        if found:
            return ModelResponse([TextPart(", ".join(str(each.content) for each in found))])
        return ModelResponse(
            [ToolCallPart(name, args, f"call-{n}") for n, (name, args) in enumerate(tools)]
        )

    return FunctionModel(respond)


def talking_once(calls: Calls, count: int) -> FunctionModel:
    """A model that streams: it calls a tool so often, and then says what that has returned."""

    async def respond(
        messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        calls.note("model")
        found = returns(messages)
        if found:
            yield ", ".join(str(each.content) for each in found)
            return
        for n in range(count):
            yield {n: DeltaToolCall("book", "{}", tool_call_id=f"call-{n}")}

    return FunctionModel(stream_function=respond)


def weather_agent(calls: Calls, model: Model, **options: Any) -> Agent[None, str]:
    agent = Agent(model, name="helper", capabilities=[StepDurability(**options)])

    @agent.tool_plain
    async def weather(city: str) -> str:
        calls.note(f"weather {city}")
        return f"{city} is fair"

    return agent


def names(steps: Any) -> list[str]:
    return [each.name for each in steps]


def test_model_requests_and_tool_calls_are_steps(calls: Calls) -> None:
    """Each is called once, and again by no replay; the agent returns what it would without."""
    durable, agent = application(), weather_agent(calls, TestModel(seed=1))

    @durable.endpoint
    async def ask(request: Request) -> Response:
        result = await agent.run("How is the weather?")
        return Response.json({"text": result.output, "run": result.run_id})

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(ask).post("/", follow=True)
        steps, run = t.steps(reply), t.runs()[0]
    plain = asyncio.run(weather_agent(Calls(), TestModel(seed=1)).run("How is the weather?"))
    assert {"text": plain.output, "run": f"{run.id}:0"} == reply.json()
    assert [MODEL, TOOL, f"{MODEL}:1"] == [name.partition(":weather:")[0] for name in names(steps)]
    assert [1, 1, 1] == [each.calls for each in steps]
    assert ["weather b"] == list(calls)


@pytest.mark.parametrize("name", [MODEL, f"{TOOL}:weather:call-0", f"{MODEL}:1"])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_crash(calls: Calls, name: str, when: str) -> None:
    """The run goes on from its last step: only what the crash has cut off is called again."""
    agent = weather_agent(calls, scripted(calls, ("weather", {"city": "Oslo"})))
    durable = application()

    @durable.endpoint(record="always", idempotency="required")
    async def ask(request: Request) -> str:
        return (await agent.run("How is the weather?")).output

    with harness(durable) as t:
        getattr(t, f"crash_{when}")(name)
        headers = {"idempotency-key": '"k"'}
        reply = t.client(ask).post("/", headers=headers, follow=True)
        steps = t.steps(t.runs()[0].id)
    assert "Oslo is fair" == reply.json()
    again = {name: 2} if when == "during" else {}
    assert [again.get(each.name, 1) for each in steps] == [each.calls for each in steps]


def test_tools_side_by_side(calls: Calls) -> None:
    """Calls of one tool are told apart by their ids, whichever ends first."""
    model = scripted(calls, *(("weather", {"city": city}) for city in ("Oslo", "Rome", "Bonn")))
    agent, durable = weather_agent(calls, model), application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        return (await agent.run("How is the weather?")).output

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(ask).post("/", follow=True)
        found = names(t.steps(reply))
    assert "Oslo is fair, Rome is fair, Bonn is fair" == reply.json()
    assert {f"{TOOL}:weather:call-{n}" for n in range(3)} == set(found[1:4])
    assert 1 == max(calls[f"weather {city}"] for city in ("Oslo", "Rome", "Bonn"))


def test_several_runs_of_agents(calls: Calls) -> None:
    """One after the other and side by side: each has ids of its own, the same in each replay."""
    agent = weather_agent(calls, scripted(calls, ("weather", {"city": "Oslo"})))
    durable = application()

    @durable.endpoint
    async def ask(request: Request) -> list[Any]:
        first = await agent.run("And in Oslo?")
        second = await agent.run("Again?", message_history=first.all_messages())
        others = await asyncio.gather(*(agent.run("And now?") for _ in range(2)))
        return [
            len(second.new_messages()),
            *(each.run_id.partition(":")[2] for each in (first, second, *others)),
        ]

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(ask).post("/", follow=True)
        found = names(t.steps(reply))
    assert [4, "0", "1", "2", "3"] == reply.json()
    assert len(found) == len(set(found)) == 12
    assert {MODEL, f"{MODEL}@1", f"{MODEL}@2", f"{MODEL}@3"} <= set(found)


def test_a_model_that_fails_is_asked_again(calls: Calls) -> None:
    """As any step: the run is suspended meanwhile, and the handler gets its answer in the end."""

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if calls.note("model") < 3:
            raise ModelHTTPError(503, "a-model")
        return ModelResponse([TextPart("here I am")])

    agent, durable = weather_agent(calls, FunctionModel(respond)), application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        return (await agent.run("Are you there?")).output

    with harness(durable) as t:
        reply = t.client(ask).post("/", follow=True)
        [asked] = t.steps(reply)
    assert ("here I am", 3) == (reply.json(), asked.attempts)


@pytest.mark.parametrize("error", [ModelHTTPError(401, "a-model"), UserError("no such model")])
def test_what_no_attempt_can_mend_fails_at_once(calls: Calls, error: Exception) -> None:
    """A request that the model's server refuses, and a mistake in the code."""

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        calls.note("model")
        raise error

    agent, durable = weather_agent(calls, FunctionModel(respond)), application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        try:
            return (await agent.run("Are you there?")).output
        except StepError:
            return "failed"

    with harness(durable) as t:
        reply = t.client(ask).post("/", follow=True)
    assert ("failed", {"model": 1}) == (reply.json(), calls)


@pytest.mark.parametrize("ui_messages", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_a_tool_that_fails_is_called_again(calls: Calls, count: int, ui_messages: bool) -> None:
    """The run is suspended meanwhile, whatever tasks the agent has, and nothing else is called."""
    model = scripted(calls, *[("book", {})] * count)
    streaming = talking_once(calls, count)
    options = StepDurability[None](ui_messages=ui_messages)
    agent = Agent(streaming if ui_messages else model, name="helper", capabilities=[options])

    @agent.tool_plain
    async def book() -> str:
        if calls.note("book") <= count:
            raise ConnectionError("no answer")
        return "booked"

    durable = application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        return (await agent.run("Book it")).output

    with harness(durable) as t:
        reply = t.client(ask).post("/")
        assert reply.is_handoff
        t.advance("1m")
        done = reply.result()
    assert ", ".join(["booked"] * count) == done.json()
    assert {"model": 2, "book": 2 * count} == calls


def test_a_result_that_is_no_json_fails_at_once(calls: Calls) -> None:
    """The tool has done its work: calling it again would do that twice, and help nothing."""
    agent = Agent(scripted(calls, ("book", {})), name="helper", capabilities=[StepDurability()])

    @agent.tool_plain
    def book() -> object:
        calls.note("book")
        return object()

    durable = application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        try:
            return (await agent.run("Book it")).output
        except StepError as error:
            return str(error)

    with harness(durable) as t:
        reply = t.client(ask).post("/", follow=True)
    assert "Unable to serialize unknown type" in reply.json()
    assert 1 == calls["book"]


def test_ids_of_calls_may_be_long(calls: Calls) -> None:
    """Those of some models do not fit the id of a step; such calls are still told apart."""

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        found = returns(messages)
        if found:
            return ModelResponse([TextPart(", ".join(str(each.content) for each in found))])
        parts = [ToolCallPart("weather", {"city": city}, "x" * 2000 + city) for city in "AB"]
        return ModelResponse(parts)

    agent, durable = weather_agent(calls, FunctionModel(respond)), application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        return (await agent.run("How is the weather?")).output

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(ask).post("/", follow=True)
        found = names(t.steps(reply))
    assert "A is fair, B is fair" == reply.json()
    assert len(found) == len(set(found)) == 4
    assert {"weather A": 1, "weather B": 1} == calls


def test_a_tool_that_asks_the_model_to_retry(calls: Calls) -> None:
    """That is a result of the step, not its failure: the model gets the message."""

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        found = returns(messages)
        if found and found[0].content == "booked":
            return ModelResponse([TextPart("booked")])
        return ModelResponse([ToolCallPart("book", {}, f"call-{len(messages)}")])

    agent = Agent(FunctionModel(respond), name="helper", capabilities=[StepDurability()], retries=2)

    @agent.tool_plain
    def book() -> str:
        if calls.note("book") == 1:
            raise ModelRetry("which day?")
        return "booked"

    durable = application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        return (await agent.run("Book it")).output

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(ask).post("/", follow=True)
    assert ("booked", 2) == (reply.json(), calls["book"])


@pytest.mark.parametrize("way", ["run", "run_stream", "iter"])
def test_each_way_to_run_an_agent(calls: Calls, way: str) -> None:
    """All of them are durable, and so are the tools of toolsets."""
    inner: FunctionToolset[None] = FunctionToolset(id="inner")

    @inner.tool_plain
    def greet(name: str) -> str:
        calls.note("greet")
        return f"hello {name}"

    agent = Agent(TestModel(), name="helper", toolsets=[inner], capabilities=[StepDurability()])

    async def call() -> str:
        if way == "run":
            return (await agent.run("Greet me")).output
        if way == "run_stream":
            async with agent.run_stream("Greet me") as streamed:
                return await streamed.get_output()
        async with agent.iter("Greet me") as nodes:
            async for _ in nodes:
                pass
        assert nodes.result is not None
        return nodes.result.output

    durable = application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        return await call()

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(ask).post("/", follow=True)
        found = names(t.steps(reply))
    request = f"{MODEL}_stream" if way == "run_stream" else MODEL
    tool = "helper__function_toolset__inner.call_tool:greet:pyd_ai_tool_call_id__greet"
    assert ([request, tool, f"{request}:1"], 1) == (found, calls["greet"])
    assert '{"greet":"hello a"}' == reply.json()


def test_options_of_tools(calls: Calls) -> None:
    """A tool has options of its own by its metadata; with False it is no step."""
    model = scripted(calls, ("once", {}), ("free", {}))
    agent = Agent(model, name="helper", capabilities=[StepDurability(tool_options={"retries": 1})])

    @agent.tool_plain(metadata={"durable": {"retries": 0}})
    def once() -> str:
        calls.note("once")
        raise ConnectionError("no answer")

    @agent.tool_plain(metadata={"durable": False})
    def free() -> str:
        calls.note("free")
        return "free"

    durable = application()

    @durable.endpoint(retries=0)
    async def ask(request: Request) -> str:
        try:
            return (await agent.run("Do it")).output
        except StepError:
            return "failed"

    with harness(durable) as t:
        reply = t.client(ask).post("/", follow=True)
        found = names(t.steps(reply))
    assert ("failed", 1) == (reply.json(), calls["once"])
    assert [MODEL, f"{TOOL}:once:call-0"] == found


def test_outside_handlers_an_agent_is_as_ever(calls: Calls) -> None:
    """In a script, and in the function of a step, which then is the only step."""
    agent = weather_agent(calls, scripted(calls, ("weather", {"city": "Oslo"})))
    durable = application()

    async def whole() -> str:
        return (await agent.run("How is the weather?")).output

    @durable.endpoint
    async def ask(request: Request) -> str:
        return await step.run("whole", whole)

    assert "Oslo is fair" == asyncio.run(whole())
    with harness(durable) as t:
        reply = t.client(ask).post("/", follow=True)
        assert ["whole"] == names(t.steps(reply))
    assert "Oslo is fair" == reply.json()


def test_a_def_handler_is_told_what_it_needs(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    """Its steps cannot be awaited by an agent; in the function of a step the agent may run."""
    agent = weather_agent(calls, scripted(calls, ("weather", {"city": "Oslo"})))
    durable = application()

    @durable.endpoint(retries=0)
    def ask(request: Request) -> str:
        return asyncio.run(agent.run("How is the weather?")).output

    def whole() -> str:
        return asyncio.run(agent.run("How is the weather?")).output

    @durable.endpoint
    def ask_in_step(request: Request) -> str:
        return sync_step.run("whole", whole)

    with harness(durable) as t:
        refused = t.client(ask).post("/", follow=True)
        done = t.client(ask_in_step).post("/", follow=True)
    assert f"step '{MODEL}' is for 'async def' handlers" in caplog.text
    assert (500, "Oslo is fair") == (refused.status, done.json())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"ui_messages": True, "event_stream_handler": print},
            TypeError,
            "ui_messages=True or event_stream_handler=",
        ),
        ({"model_options": {"retries": 21}}, ValueError, "retries"),
        ({"tool_options": {"retry": 1}}, TypeError, "retry"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], text: str) -> None:
    """They are refused when the capability is made."""
    with pytest.raises(error, match=text):
        StepDurability(**options)


def test_a_time_limit_counts_from_the_first_execution(calls: Calls) -> None:
    """When the agent began is stored, so a replay does not begin to count anew."""
    agent, durable = weather_agent(calls, TestModel(call_tools=[])), application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        return (await agent.run("Are you there?", timeout=60)).output

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(ask).post("/", follow=True)
        assert ["helper__run_start_time", MODEL] == names(t.steps(reply))
    assert "success (no tool calls)" == reply.json()


# --- waiting --------------------------------------------------------------------------------------


def dangerous_agent(calls: Calls, ask: RequestInput[Any] | None) -> Agent[None, Any]:
    capabilities: list[Any] = [StepDurability(), *([] if ask is None else [ask])]
    agent: Agent[None, Any] = Agent(
        scripted(calls, ("drop", {"table": "users"})),
        name="helper",
        output_type=[str, DeferredToolRequests],
        capabilities=capabilities,
    )

    @agent.tool_plain(requires_approval=True)
    def drop(table: str) -> str:
        calls.note("drop")
        return f"dropped {table}"

    return agent


@pytest.mark.parametrize(
    ("event", "output", "dropped"),
    [
        ({"answer": {"approvals": {"call-0": True}}}, "dropped users", 1),
        ({"answer": {"approvals": {"call-0": False}}}, "The tool call was denied.", 0),
        ({"error": "the boss is away"}, "No decision on this tool call arrived: the boss is", 0),
        (None, "No decision on this tool call arrived: the time to answer is over", 0),
    ],
    ids=["approved", "denied", "failed", "late"],
)
def test_an_approval_is_awaited(
    calls: Calls, event: dict[str, Any] | None, output: str, dropped: int
) -> None:
    """The run is suspended until the answer is there, or the time is over; it asks once."""
    tokens: list[str] = []

    def ask(context: RunContext[None], requests: DeferredToolRequests, token: str) -> None:
        tokens.append(token)

    agent = dangerous_agent(calls, RequestInput(ask, timeout=timedelta(hours=1)))
    durable = application()

    @durable.endpoint
    async def handle(request: Request) -> str:
        return str((await agent.run("Drop the users")).output)

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(handle).post("/")
        assert reply.is_handoff
        if event is None:
            t.advance("1h")
        else:
            sent = answer_event(tokens[0], event.get("answer"), error=event.get("error"))
            t.send(sent.name, dict(sent.data))
        result = reply.result()
    assert result.json().startswith(output)
    assert (1, dropped) == (len(tokens), calls["drop"])


def test_an_answer_may_come_while_it_is_asked_for(calls: Calls) -> None:
    """It is kept, for the wait comes after the question; or it is the answer of the question."""
    durable = application()
    yes = {"approvals": {"call-0": True}}

    def send(context: RunContext[None], requests: DeferredToolRequests, token: str) -> None:
        durable.send(answer_event(token, yes))

    def answer(
        context: RunContext[None], requests: DeferredToolRequests, token: str
    ) -> DeferredToolResults:
        return requests.build_results(approve_all=True)

    sending, answering = (dangerous_agent(calls, RequestInput(each)) for each in (send, answer))

    @durable.endpoint
    async def handle(request: Request) -> list[str]:
        return [str((await agent.run("Drop")).output) for agent in (sending, answering)]

    with harness(durable) as t:
        reply = t.client(handle).post("/", follow=True)
    assert ["dropped users"] * 2 == reply.json()


def test_deferred_calls_as_the_output(calls: Calls) -> None:
    """Without a capability the handler gets them, waits as it likes, and runs the agent again."""
    agent, durable = dangerous_agent(calls, None), application()

    @durable.endpoint
    async def handle(request: Request) -> str:
        result = await agent.run("Drop the users")
        assert isinstance(result.output, DeferredToolRequests)
        event = await step.wait_for_event("approval", event="approved", timeout="1h")
        again = await agent.run(
            message_history=result.all_messages(),
            deferred_tool_results=DeferredToolResults(approvals={"call-0": event is not None}),
        )
        return str(again.output)

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(handle).post("/")
        t.send("approved", {})
        assert "dropped users" == reply.result().json()
    assert 1 == calls["drop"]


def test_an_answer_needs_a_token() -> None:
    """An empty one would be the answer to nothing."""
    with pytest.raises(ValueError, match="must not be empty"):
        answer_event("", {})


# --- streaming ------------------------------------------------------------------------------------


def talking(calls: Calls, gate: asyncio.Event | None = None) -> FunctionModel:
    """A model that streams: it thinks aloud, calls two tools, and then answers."""

    async def respond(
        messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        calls.note("model")
        if returns(messages):
            yield "It is "
            yield "fair."
            return
        yield "Let me "
        if gate is not None:
            await gate.wait()
        yield "see."
        yield {1: DeltaToolCall("weather", '{"city": ', tool_call_id="c1")}
        yield {1: DeltaToolCall(json_args='"Oslo"}')}
        yield {2: DeltaToolCall("drop", '{"table": "t"}', tool_call_id="c2")}

    return FunctionModel(stream_function=respond)


def chat_agent(calls: Calls, model: Model) -> Agent[None, str]:
    capabilities = [StepDurability(ui_messages=True), ask_in_chat()]
    agent: Agent[None, str] = Agent(model, name="helper", capabilities=capabilities)

    @agent.tool_plain
    async def weather(city: str) -> str:
        calls.note("weather")
        return "fair"

    @agent.tool_plain(requires_approval=True)
    def drop(table: str) -> str:
        calls.note("drop")
        return "dropped"

    return agent


def chunks_of(part: bytes) -> list[dict[str, Any]]:
    lines = part.decode().splitlines()
    texts = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
    return [json.loads(text) for text in texts]


CHAT = Request(method="POST", url="http://127.0.0.1/chat", body=b'{"id": "c1"}')


async def converse(
    durable: Durable[Any], endpoint: Any, gate: asyncio.Event
) -> list[dict[str, Any]]:
    """Ask in a chat, approve what it wants, and return the chunks of the message."""
    durable.start()
    response = await endpoint.handle_async(CHAT)
    chunks: list[dict[str, Any]] = []
    async for part in response.body:
        new = chunks_of(part)
        chunks += new
        if any(each.get("delta") == "Let me " for each in new):
            gate.set()  # the first word is there while the model still answers
        for each in new:
            if each["type"] == "tool-approval-request":
                token = each["approvalDescriptor"]["token"]
                approved = {"approvals": {each["toolCallId"]: True}}
                await durable.send_async(answer_event(token, approved))
    await durable.stop_async()
    return chunks


def test_a_chat(calls: Calls) -> None:
    """Words come while the model answers; calls, approvals and results are parts of the message."""
    durable = application()

    async def main() -> list[dict[str, Any]]:
        gate = asyncio.Event()
        agent = chat_agent(calls, talking(calls, gate))

        @durable.endpoint(ui_messages="live")
        async def chat(request: Request) -> str:
            return (await agent.run("How is the weather?")).output

        return await converse(durable, chat, gate)

    chunks = asyncio.run(main())
    deltas = [each["delta"] for each in chunks if each["type"] == "text-delta"]
    of_tools = [(each["type"], each["toolCallId"]) for each in chunks if "toolCallId" in each]
    assert ["Let me ", "see.", "It is ", "fair."] == deltas
    assert [
        *(("tool-input-start", "c1"), *[("tool-input-delta", "c1")] * 2),
        *(("tool-input-start", "c2"), ("tool-input-delta", "c2")),
        *(("tool-input-available", "c1"), ("tool-output-available", "c1")),
        *(("tool-input-available", "c2"), ("tool-approval-request", "c2")),
        ("tool-output-available", "c2"),
    ] == of_tools
    assert {"model": 2, "weather": 1, "drop": 1} == calls
    assert 2 == sum(each["type"] == "start-step" for each in chunks)
    assert "finish" == chunks[-1]["type"]


def test_the_encoder_of_pydantic_ai_is_piped(calls: Calls) -> None:
    """What its adapter writes is a message, too; its words come with the end of each request."""
    durable = application()
    agent = weather_agent(calls, talking(calls))
    body = {
        "id": "c1",
        "trigger": "submit-message",
        "messages": [
            {"id": "m", "role": "user", "parts": [{"type": "text", "text": "How is Oslo?"}]}
        ],
    }
    request = Request(method="POST", url="http://127.0.0.1/", body=json.dumps(body).encode())

    @durable.endpoint(ui_messages="live")
    async def chat(request: Request) -> str:
        run_input = VercelAIAdapter.build_run_input(request.body)
        adapter = VercelAIAdapter(agent=agent, run_input=run_input)
        return await stream.pipe_ui_messages(adapter.encode_stream(adapter.run_stream()))

    async def main() -> list[dict[str, Any]]:
        durable.start()
        endpoint: Any = chat
        response = await endpoint.handle_async(request)
        chunks = [each async for part in response.body for each in chunks_of(part)]
        await durable.stop_async()
        return chunks

    chunks = asyncio.run(main())
    text = "".join(each["delta"] for each in chunks if each["type"] == "text-delta")
    assert "Let me see.It is fair." == text
    assert 1 == sum(each["type"] == "start" for each in chunks)
    assert ("finish", 1) == (chunks[-1]["type"], calls["weather Oslo"])


def test_a_handler_of_events(calls: Calls) -> None:
    """One of your own gets those of models while they answer, and each other one in a step."""
    seen: list[str] = []

    async def handle(context: RunContext[None], events: Any) -> None:
        async for event in events:
            seen.append(type(event).__name__)

    agent = weather_agent(calls, TestModel(), event_stream_handler=handle)
    durable = application()

    @durable.endpoint
    async def ask(request: Request) -> str:
        return (await agent.run("How is the weather?")).output

    with harness(durable) as t:
        t.replay_everything()
        reply = t.client(ask).post("/", follow=True)
        found = names(t.steps(reply))
    assert 2 == sum(name.startswith("helper__event_stream_handler") for name in found)
    assert (1, 1) == (seen.count("FunctionToolCallEvent"), seen.count("FunctionToolResultEvent"))
