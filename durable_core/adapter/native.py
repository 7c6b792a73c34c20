"""What the adapters of frameworks share: what is known of the application that endpoints are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from durable_core.api.durable import Durable
from durable_core.api.functions import is_async
from durable_core.errors import ConfigurationError, StepUsageError

if TYPE_CHECKING:
    from durable_core.api.adapter import NativeEngine

__all__ = [
    "Host",
    "Hosts",
    "NotReachedError",
    "check_durable",
    "check_nested_call",
    "copy_identity",
]

AppT = TypeVar("AppT")
WaitingT = TypeVar("WaitingT")


class NotReachedError(Exception):
    """The application answered a replayed request before its durable endpoint was reached."""


class Host(Generic[AppT, WaitingT]):
    """What is known of the application that an engine's endpoints are in.

    Attributes:
        application: the outermost application, through which requests are replayed; None while it
            is not known.
        waiting: answers clients that wait for a run; None while there is no endpoint.
        functions: those of the endpoints, as the user wrote them.
    """

    def __init__(self, remedy: str) -> None:
        self.application: AppT | None = None
        self.waiting: WaitingT | None = None
        self.functions: set[Callable[..., Any]] = set()
        self._remedy = remedy

    def required(self) -> AppT:
        """Return the application.

        Raises:
            ConfigurationError: it is not known.
        """
        if self.application is None:
            raise ConfigurationError(
                "runs cannot be replayed, for their application is not known in this process: "
                f"{self._remedy}"
            )
        return self.application

    def check_installed(self) -> None:
        """Raise a ConfigurationError if there are endpoints, and their application is not known."""
        if self.functions:
            self.required()


class Hosts(Generic[AppT, WaitingT]):
    """The hosts of engines, for one framework.

    Args:
        remedy: how an application is made known, for the error.
    """

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy

    def of(self, engine: NativeEngine) -> Host[AppT, WaitingT]:
        """Return the host of an engine, which is made when it is first asked for.

        The engine has it: a host leads to handlers, which lead to the engine, so no table of hosts
        could ever let one go.
        """
        host: Host[AppT, WaitingT] = engine.native_hosts.setdefault(self, Host(self._remedy))
        return host


def copy_identity(handler: Callable[..., Any], function: Callable[..., Any]) -> None:
    """Give a handler of the core the name of a framework's function, by which runs find it.

    The signature stays its own.
    """
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(handler, name, getattr(function, name, None))


def check_durable(durable: object) -> None:
    """See that what is to be installed in an application is a ``Durable``.

    Raises:
        ConfigurationError: it is not, such as the application itself.
    """
    if not isinstance(durable, Durable):
        raise ConfigurationError(f"install needs the Durable of the endpoints, not {durable!r}")


def check_nested_call(outer: Callable[..., Any], inner: Callable[..., Any]) -> None:
    """See that an endpoint's function may call that of another endpoint: both are of one kind.

    The other one is then a part of the run.

    Raises:
        StepUsageError: one is ``def`` and one is ``async def``.
    """
    if is_async(outer) != is_async(inner):
        raise StepUsageError(
            f"{outer.__qualname__} calls {inner.__qualname__}, another endpoint, whose steps would "
            "be those of this run; but one of the two is 'def' and the other 'async def'. Call it "
            "by step.invoke, which begins a run of its own, or make both of one kind"
        )
