"""What the server does for a step: functions that it knows, and calls that it makes."""

from __future__ import annotations

from durable_core.engines.remote import ServerFunction, ServerGateway
from durable_core.errors import ConfigurationError

__all__ = ["InngestFunction", "InngestGateway"]


class InngestFunction(ServerFunction):
    """A function of an application on the Inngest server, in any language, for ``step.invoke``.

    ``await step.invoke("charge", InngestFunction("billing", "charge"), {"amount": 20})``

    Args:
        app: the id of its application.
        id: the function's own id.

    Raises:
        ConfigurationError: one of them is no text, or empty.
    """

    def __init__(self, app: str, id: str) -> None:
        for name, value in (("app", app), ("id", id)):
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"InngestFunction({name}=) must be a text, not {value!r}")
        super().__init__(f"{app}-{id}")


class InngestGateway(ServerGateway):
    """Lets the Inngest server make the call of a step: ``client=InngestGateway()``.

    ``step.ai.infer`` asks the model by the server's AI gateway, which shows the tokens on its
    pages, and ``step.fetch`` calls by its gateway. Nothing of the application waits meanwhile. The
    server gets the key, or the headers, and shows the question.
    """
