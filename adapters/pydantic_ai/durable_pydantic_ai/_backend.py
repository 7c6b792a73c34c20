"""What pydantic-ai calls a durable unit, as a step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_ai.durable_exec import (
    DurableOperationId,
    JournalCallableOperationBackend,
    record_durable_unit,
)
from pydantic_ai.exceptions import ModelHTTPError, UserError
from pydantic_core import PydanticSerializationError

from durable_core import step
from durable_pydantic_ai._runs import step_id

__all__ = ["Options", "StepBackend", "is_worth_another_attempt"]

#: Keywords of ``step.options``.
Options = dict[str, Any]
#: The statuses of a model's server after which a request may do better.
_TEMPORARY = frozenset({408, 409, 425, 429})


class StepBackend(JournalCallableOperationBackend[Options]):
    """Runs each operation as a step of the endpoint whose handler has called the agent."""

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Callable[[], Awaitable[object]],
        cache_key: tuple[object, ...],
        config: Options,
    ) -> object:
        """Call a body in a step, and return its result; a replay returns the stored one.

        Args:
            operation_id: what it is.
            name: of the operation; the id of the step begins with it.
            body: the model request, or the call of a tool.
            cache_key: what the operation is made of.
            config: of the step.
        """
        was_executed = False

        async def call() -> object:
            nonlocal was_executed
            was_executed = True
            return await body()

        result: object = await step.options(**config).run(step_id(name, cache_key), call)
        record_durable_unit(executed=was_executed)
        return result


def is_worth_another_attempt(error: Exception) -> bool:
    """Tell whether a step of an agent may succeed at another attempt: the default ``retry_if``."""
    if isinstance(error, ModelHTTPError):
        return error.status_code >= 500 or error.status_code in _TEMPORARY
    # A result that is no JSON: the tool has done its work, and would do it again.
    return not isinstance(error, (UserError, PydanticSerializationError))
