"""What broken servers are made of: the adapter of the recipe, with some of it replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from durable_core import Durable, Request, Response
from durable_core.routing import Routes
from support import recipe

__all__ = [
    "BASE",
    "Fields",
    "Mutant",
    "Mutants",
    "changed_request",
    "changed_response",
    "fields_in",
    "fields_out",
    "find",
    "receiving",
    "sending",
    "sound",
    "status_out",
]

#: The module of the recipe.
BASE = recipe.load()
Fields: TypeAlias = Sequence[tuple[str, str]]
#: Mutants by what they get wrong: the subject, and the requirements that must fail for it.
Mutants: TypeAlias = "dict[str, tuple[Mutant, tuple[str, ...]]]"

_Subject: Any = BASE.Subject


class Mutant(_Subject):  # type: ignore[misc]
    """The recipe's subject with some of it replaced.

    Args:
        handler: what the handler's class has in place of the recipe's.
        declares: more capabilities.
        start: called with the ``Durable`` before it is served.
    """

    def __init__(
        self,
        handler: dict[str, Any] | None = None,
        *,
        declares: str = "",
        start: Callable[[Durable[Any]], object] = lambda durable: None,
        adapter: Any = None,
    ) -> None:
        self.name = "mutant"
        self.capabilities = BASE.Subject.capabilities | set(declares.split())
        self.handler_class: Any = type("Mutant", (BASE.Handler,), handler or {})
        self.endpoint_adapter = adapter or BASE.Subject.endpoint_adapter
        self._start = start

    def serve(self, routes: Routes, *, durable: Durable[Any]) -> AbstractContextManager[str]:
        """Serve as the recipe does."""
        self._start(durable)
        served: AbstractContextManager[str] = super().serve(routes, durable=durable)
        return served


def changed_request(request: Request, **changes: Any) -> Request:
    """Return the request with some of it changed."""
    kept = {name: getattr(request, name) for name in ("method", "url", "headers", "body")}
    return Request(**{**kept, **changes})


def receiving(change: Callable[[Request], Request]) -> dict[str, Any]:
    """Change what the core is given."""
    return {"receive": lambda self: change(BASE.Handler.receive(self))}


def fields_in(change: Callable[[Fields], Fields]) -> dict[str, Any]:
    """Change the header fields of requests."""
    return receiving(lambda request: changed_request(request, headers=change(request.headers.raw)))


def changed_response(response: Response, **changes: Any) -> Response:
    """Return the response with some of it changed."""
    kept = {name: getattr(response, name) for name in ("status", "headers", "body")}
    return Response(**{**kept, **changes})


def sending(change: Callable[[Any, Response], Response]) -> dict[str, Any]:
    """Change what is sent."""
    return {"send": lambda self, response: BASE.Handler.send(self, change(self, response))}


def fields_out(change: Callable[[Fields], Fields]) -> dict[str, Any]:
    """Change the header fields of responses."""
    return sending(
        lambda _, response: changed_response(response, headers=change(response.headers.raw))
    )


def status_out(change: Callable[[int], int]) -> dict[str, Any]:
    """Change the status of responses."""
    return sending(lambda _, response: changed_response(response, status=change(response.status)))


def find(mutants: Mutants, name: str) -> Mutant:
    """Return a mutant of a module by its name, for the module's ``__getattr__``."""
    if name not in mutants:
        raise AttributeError(f"there is no mutant {name!r}")
    return mutants[name][0]


#: What they are made of, with nothing wrong.
sound = Mutant()
