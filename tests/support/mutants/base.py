"""What broken servers are made of: the adapter of the recipe, with some of it replaced."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote

from durable_core import BadRequest, Durable, Request, Response
from durable_core.adapters import AdapterApp, Routes, converse, lingering_close, refuse
from support import recipe

__all__ = [
    "BASE",
    "Fields",
    "MountingMutant",
    "Mutant",
    "Mutants",
    "Seen",
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
        app: what the application's class has in place of the kit's.
        exchange: what the exchange's class has in place of the recipe's.
        handler: what the handler's class has in place of the recipe's.
        declares: more capabilities.
        start: called with the ``Durable`` before it is served.
    """

    def __init__(
        self,
        app: dict[str, Any] | None = None,
        *,
        exchange: dict[str, Any] | None = None,
        handler: dict[str, Any] | None = None,
        declares: str = "",
        start: Callable[[Durable[Any]], object] = lambda durable: None,
        adapter: Any = None,
    ) -> None:
        self.name = "mutant"
        self.capabilities = BASE.Subject.capabilities - {"async-handlers"} | set(declares.split())
        exchanges = type("Mutant", (BASE.HandlerExchange,), exchange or {})
        answer = {"answer": lambda handler: _converse(handler, exchanges(handler))}
        methods = dict.fromkeys((f"do_{method}" for method in _METHODS), answer["answer"])
        own = {**answer, **methods, **(handler or {})}
        self.handler_class: Any = type("Mutant", (BASE.Handler,), own)
        self.app_class: Any = type("Mutant", (AdapterApp,), app or {})
        self.endpoint_adapter = adapter or BASE.Subject.endpoint_adapter
        self._start = start

    def serve(self, routes: Routes, *, durable: Durable[Any]) -> AbstractContextManager[str]:
        """Serve as the recipe does."""
        self._start(durable)
        served: AbstractContextManager[str] = super().serve(routes, durable=durable)
        return served


class MountingMutant(Mutant):
    """A mutant that mounts endpoints, as a framework on the recipe's server would.

    Args:
        change: is given prefix, parameters and template; returns what the exchange gets of them.
    """

    def __init__(self, change: MountChange = lambda *found: found) -> None:
        super().__init__(declares="mounting native-routes")
        self._change = change

    @contextmanager
    def mount(
        self, endpoint: Any, prefix: str, template: str, *, durable: Durable[Any]
    ) -> Iterator[str]:
        """Serve an endpoint, and tell every exchange what a router has found."""
        pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", template))
        change = self._change

        def init(exchange: Any, handler: Any) -> None:
            BASE.HandlerExchange.__init__(exchange, handler)
            path = unquote(exchange.target.partition("?")[0]).removeprefix(prefix)
            found = pattern.fullmatch(path)
            params = found.groupdict() if found is not None else {}
            exchange.root_path, exchange.path_params, exchange.route = change(
                prefix, params, template
            )

        mounted = Mutant(exchange={"__init__": init})
        mounted.app_class = lambda _: endpoint  # what the adapter makes of a handler is an app
        with mounted.serve({"GET /": endpoint}, durable=durable) as url:
            yield url


#: Changes the prefix, the parameters and the template of a mount.
MountChange: TypeAlias = Callable[
    [str, dict[str, str], str], "tuple[str, dict[str, str], str | None]"
]

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY", "OPTIONS")


def _converse(handler: Any, exchange: Any) -> None:
    """As the recipe's handler does."""
    handler.close_connection = True
    if handler.headers.get_payload():
        refuse(handler.server.app, exchange, BadRequest("the head of the request is malformed"))
    else:
        converse(handler.server.app, exchange)
    if exchange.refused:
        lingering_close(handler.connection)


@dataclass(frozen=True)
class Seen:
    """Whom a response is for."""

    app: Any
    request: Request

    @property
    def path(self) -> str:
        """The target of the request."""
        return self.request.url.partition("://")[2].partition("/")[2]


def changed_request(request: Request, **changes: Any) -> Request:
    """Return the request with some of it changed."""
    kept = {name: getattr(request, name) for name in ("method", "url", "headers", "body")}
    return Request(**{**kept, **changes})


def receiving(change: Callable[[Request], Request]) -> dict[str, Any]:
    """Change what the core is given."""
    return {
        "respond": lambda self, request, **how: AdapterApp.respond(self, change(request), **how)
    }


def fields_in(change: Callable[[Fields], Fields]) -> dict[str, Any]:
    """Change the header fields of requests."""
    return receiving(lambda request: changed_request(request, headers=change(request.headers.raw)))


def changed_response(response: Response, **changes: Any) -> Response:
    """Return the response with some of it changed."""
    kept = {name: getattr(response, name) for name in ("status", "headers", "body")}
    return Response(**{**kept, **changes})


def sending(change: Callable[[Seen, Response], Response]) -> dict[str, Any]:
    """Change what is sent."""
    return {
        "respond": lambda self, request, **how: change(
            Seen(self, request), AdapterApp.respond(self, request, **how)
        )
    }


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


def _buffer(self: Any, request: Request, **how: Any) -> Response:
    """Answer as a function on a platform does: with a whole body, and a mapping of fields."""
    response = AdapterApp.respond(self, request, **how)
    body = response.body
    if not isinstance(body, bytes):
        try:
            body = b"".join(body)  # type: ignore[arg-type]
        except Exception:
            return Response.text("the function failed", 502)
    fields = dict(response.headers.raw)
    length = fields.get("content-length", str(len(body)))
    if response.is_streaming and request.method != "HEAD" and length != str(len(body)):
        return Response.text("the function failed", 502)
    return changed_response(response, headers=list(fields.items()), body=body)


#: What they are made of, with nothing wrong.
sound = Mutant()
sound_mounts = MountingMutant()
#: A platform that buffers responses and has one value for each header field.
sound_platform = Mutant({"respond": _buffer}, declares="")
sound_platform.capabilities -= {"streaming", "repeated-fields", "latin-1-fields"}
