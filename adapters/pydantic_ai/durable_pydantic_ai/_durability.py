"""The capability that makes an agent durable."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from datetime import datetime
from typing import Any, Literal, Unpack, cast

from pydantic_ai.agent import EventStreamHandler
from pydantic_ai.capabilities.abstract import WrapRunHandler
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    DurableOperationBackend,
    DurableOperationId,
    RoleBasedOperationConfig,
    conversation_id_from_run_id,
    external_event_scope,
    replay_scope,
)
from pydantic_ai.messages import AgentStreamEvent
from pydantic_ai.models import Model
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import AgentDepsT, RunContext

from durable_core import step
from durable_core.adapters import StepKeywords, coordinates_steps
from durable_pydantic_ai._approval import EventWaiter
from durable_pydantic_ai._backend import Options, StepBackend, is_worth_another_attempt
from durable_pydantic_ai._messages import push_model_events, push_tool_events
from durable_pydantic_ai._runs import agent_suffix, in_handler, next_agent_run

__all__ = ["StepDurability"]

# The tasks of an agent wait for each other; what they do outside the run, they do in steps.
coordinates_steps("pydantic_ai", "pydantic_graph")


class StepDurability(BaseDurabilityCapability[AgentDepsT]):
    """Makes the model requests and tool calls of an agent steps of the endpoint that calls it.

    It is for ``async def`` handlers: in them ``await agent.run(...)`` goes on from the last step
    after a crash, a restart or a suspension. Elsewhere, also in the function of a step, the agent
    runs as it would without. Tools that wait for approvals suspend the run; see
    :func:`ask_in_chat`.

    Args:
        ui_messages: send what the models answer and what tools do as chunks of a UI message, while
            it comes; see ``stream.ui_message``.
        event_stream_handler: gets the events of the agent in place of that: those of models in
            their steps, each other one in a step of its own.
        models: further models that a run may name; see ``BaseDurabilityCapability``.
        name: the first part of the ids of steps. Default: the name of the agent.
        model_options: of model requests, keywords of ``step.options``.
        tool_options: of tool calls. A tool has its own by its metadata: ``@agent.tool(metadata=
            {"durable": {"retries": 0}})``; with ``{"durable": False}`` it is no step, and is called
            again by each replay.

    Raises:
        TypeError: both ``ui_messages`` and ``event_stream_handler``.
        StepArgumentError: an option of another type, or out of range (a ValueError and TypeError).
    """

    engine_spec = DurabilityEngineSpec(
        engine_name="Durable Endpoints",
        durable_unit_noun="step",
        durable_container_noun="run",
        codec=JSON_CODEC,
        unsupported_runtime_toolset_kinds=frozenset({"mcp", "dynamic"}),
        tool_config_key="durable",
    )

    def __init__(
        self,
        *,
        ui_messages: bool = False,
        event_stream_handler: EventStreamHandler[AgentDepsT] | None = None,
        models: Mapping[str, Model] | None = None,
        name: str | None = None,
        model_options: StepKeywords | None = None,
        tool_options: StepKeywords | None = None,
    ) -> None:
        if ui_messages and event_stream_handler is not None:
            raise TypeError("StepDurability takes ui_messages=True or event_stream_handler=")
        handler = push_model_events if ui_messages else event_stream_handler
        super().__init__(models=models, event_stream_handler=handler, name=name)
        self._ui_messages = ui_messages
        self._model_options = _with_defaults(**(model_options or {}))
        self._tool_options = _with_defaults(**(tool_options or {}))

    @property
    def in_durable_context(self) -> bool:
        """Whether the handler of a run calls this."""
        return in_handler()

    def get_default_run_id(self) -> str | None:
        """Return the id of an agent run, the same in each replay."""
        return next_agent_run() if self.in_durable_context else None

    def get_default_conversation_id(self, run_id: str) -> str | None:
        """Return the id of the conversation of an agent run, the same in each replay."""
        return conversation_id_from_run_id(run_id) if self.in_durable_context else None

    async def get_run_start_time(self, run_id: str) -> datetime | None:
        """Return when an agent run with a time limit began, which is stored as a step."""
        if not self.in_durable_context:
            return None
        return await step.run(f"{self.name}__run_start_time{agent_suffix(run_id)}", _now)

    def get_durable_operation_backend(self) -> DurableOperationBackend[Any]:
        """Return what runs operations as steps."""
        return StepBackend(
            agent_name=self.name,
            default_model_id=self.default_model_id,
            config=RoleBasedOperationConfig[Options](
                model=self._model_options,
                event={},
                capability=self._tool_options,
                tool=self._tool_options,
                resolve_tool=self._options_of_tool,
            ),
        )

    def _options_of_tool(
        self, operation_id: DurableOperationId, tool: object | None, tool_name: str
    ) -> Options | Literal[False]:
        found = self._build_resolve_tool_config(self._tool_options)(cast(Any, tool), tool_name)
        return cast("Options | Literal[False]", found)

    async def wrap_run(
        self, ctx: RunContext[AgentDepsT], *, handler: WrapRunHandler
    ) -> AgentRunResult[Any]:
        """Run the agent such that a replay does the same in the same order."""
        if not self.in_durable_context or self.agent is None:
            return await super().wrap_run(ctx, handler=handler)
        with (
            external_event_scope(EventWaiter(self.name + agent_suffix(ctx.run_id))),
            replay_scope(),
            self.agent.parallel_tool_call_execution_mode("parallel_ordered_events"),
        ):
            return await super().wrap_run(ctx, handler=handler)

    async def wrap_run_event_stream(
        self, ctx: RunContext[AgentDepsT], *, stream: AsyncIterable[AgentStreamEvent]
    ) -> AsyncIterable[AgentStreamEvent]:
        """Send the events that the handler sees, or give them to the agent's own handler."""
        if self._ui_messages and self.in_durable_context:
            events: AsyncIterable[AgentStreamEvent] = push_tool_events(stream)
        else:
            events = super().wrap_run_event_stream(ctx, stream=stream)
        async for event in events:
            yield event


async def _now() -> datetime:
    from datetime import UTC

    return datetime.now(UTC)


def _with_defaults(**options: Unpack[StepKeywords]) -> Options:
    """Return the options of steps; wrong ones are refused."""
    chosen: Options = {"retry_if": is_worth_another_attempt, **options}
    step.options(**chosen)
    return chosen
