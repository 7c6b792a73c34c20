"""``Durable``."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from durable_core.api.adapter import endpoint_adapter
from durable_core.api.durable import Durable
from durable_core.api.endpoint import Endpoint
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.errors import ConfigurationError, EndpointAdapterRequiredError, LimitExceededError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.model.event import Event
from durable_core.ports.observer import Observer
from durable_core.stores.sqlite import SQLiteStore
from support.harness import WatchedStore, lab


def handler(request: Request) -> None: ...


def other(request: Request) -> None: ...


class Observing(Observer):
    """Does nothing with what it is told."""


def made(**options: Any) -> Any:
    options = {"store": WatchedStore(), "endpoint_adapter": endpoint_adapter, **options}
    return Durable(**{"id": "shop", **options})


@pytest.mark.parametrize("id_", ["", "-x", "a b", "x" * 65, "a/b", "\N{SNOWMAN}", 7, None])
def test_id(id_: Any) -> None:
    """The id is a short plain name; the error says which."""
    with pytest.raises(ConfigurationError, match="1 to 64 letters"):
        made(id=id_)


@pytest.mark.parametrize("adapter", ["wsgi", object(), Durable])
def test_adapter_that_is_none(adapter: Any) -> None:
    """What cannot be an adapter is refused by name, not at the first endpoint."""
    with pytest.raises(ConfigurationError, match=r"endpoint_adapter=. must have options, wrap"):
        made(endpoint_adapter=adapter)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"retry": 3}, "must be a RetryPolicy, .* not 3; how many .* retries="),
        ({"limits": {"steps": 5}}, "must be a Limits object, not {'steps': 5}"),
        ({"codec": "pickle"}, "must have encode and decode; 'pickle' has not"),
        ({"around": "request"}, "must be a function of the request .* not 'request'"),
        ({"debug": "no"}, "must be True or False, not 'no'"),
        ({"public_url": 7}, "must be scheme and authority, .* not 7"),
        ({"engine": "inngest", "store": None}, r"must be an engine, such as .* not 'inngest'"),
        ({"engine": EmbeddedEngine, "store": None}, r"must be an engine, such as .* not <class"),
        ({"observers": [Observer]}, "takes a list of objects that derive .* not <class"),
        ({"observers": Observing()}, r"takes a list: observers=\["),
        ({"observers": "x"}, "takes a list of objects that derive .* not 'x'"),
    ],
)
def test_an_argument_of_another_type(argument: dict[str, object], says: str) -> None:
    """Each is refused when ``Durable`` is made, by its name, and not when it is first used."""
    name, *_ = argument
    with pytest.raises(ConfigurationError, match=rf"Durable\({name}=\) {says}"):
        made(**argument)


def test_observers_in_any_sequence() -> None:
    """As the annotation says; what is in it need only have the methods."""
    made(observers=deque([Observing(), create_autospec(Observing, instance=True)]))


def test_a_handler_is_decorated_once() -> None:
    """The second decorator says so, and not that it cannot call what the first one made."""
    durable = made()

    def handler(request: Request) -> str:
        return "ok"

    with pytest.raises(TypeError, match="is a durable endpoint already; decorate a handler once"):
        durable.endpoint(durable.endpoint(handler))


@pytest.mark.parametrize(
    "method",
    [
        "endpoint",
        "endpoint_proxy",
        "events_endpoint",
        "health_endpoint",
        "readiness_endpoint",
        "metrics",
    ],
)
def test_without_an_adapter(method: str) -> None:
    """Without an adapter the error names the argument and the adapter packages."""
    durable = made(endpoint_adapter=None)
    with pytest.raises(EndpointAdapterRequiredError, match=r"endpoint_adapter=.*durable_wsgi"):
        getattr(durable, method)()


def test_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is a file by the id; a path is made absolute when Durable is made."""
    monkeypatch.chdir(tmp_path)
    default = made(store=None).engine.store
    named = made(store="x/y.db").engine.store
    monkeypatch.chdir("/")
    assert isinstance(default, SQLiteStore)
    assert str(tmp_path / ".durable" / "shop.db") in repr(default)
    assert str(tmp_path / "x" / "y.db") in repr(named)
    assert [] == list(tmp_path.iterdir())


def test_endpoint_with_and_without_options() -> None:
    """The decorator works bare and with options; those of the endpoint go before the adapter's."""
    durable = made(endpoint_adapter=endpoint_adapter.with_options(retries=1, function_id="shared"))
    bare = durable.endpoint(handler)
    assert isinstance(bare, Endpoint)
    assert "shared" == bare.key
    assert "own" == durable.endpoint(function_id="own", retries=5)(other).key
    retries = {key: each.options.retries for key, each in durable.engine.endpoints.items()}
    assert {"shared": 1, "own": 5} == retries


def test_endpoint_needs_a_function() -> None:
    """What cannot be called is refused."""
    with pytest.raises(TypeError, match="needs a function, not int: 7"):
        made().endpoint()(7)
    with pytest.raises(TypeError, match="needs a function, not a class: <class"):
        made().endpoint(Path)


@pytest.mark.parametrize("retries", [-1, 21, True, 1.5, "3"])
def test_retries_are_checked_at_definition(retries: Any) -> None:
    """A number of retries out of range is a ValueError when the endpoint is defined."""
    with pytest.raises(ValueError, match="0 to 20"):
        made().endpoint(retries=retries)


def test_function_id_of_an_adapter_is_for_one_endpoint() -> None:
    """An adapter with a function_id cannot wrap two endpoints; the error names the way out."""
    durable = made(endpoint_adapter=endpoint_adapter.with_options(function_id="book"))
    durable.endpoint(handler)
    durable.endpoint(handler)
    with pytest.raises(ConfigurationError, match=r"endpoint\(function_id="):
        durable.endpoint(other)
    assert "own" == durable.endpoint(function_id="own")(other).key


def test_events_are_checked() -> None:
    """What is no event, nothing at all, or too large, is refused before it is sent."""
    with lab(limits=Limits(event=100)) as process:
        send: Any = process.durable.send
        for one in ("x", {"name": "x"}, None):
            with pytest.raises(TypeError, match="must be an Event or a list of them"):
                send(one)
        with pytest.raises(ValueError, match="at least one"):
            send([])
        with pytest.raises(TypeError):
            send(Event("x", {"a": object()}))
        with pytest.raises(LimitExceededError):
            send(Event("x", {"a": "x" * 100}))
        assert [] == process.watched.batches[1:]


@pytest.mark.parametrize("threads", [0, "8", True, 2.0])
def test_threads_of_a_server_are_counted(threads: Any) -> None:
    """Another number is refused before anything is started."""
    durable = made()
    with pytest.raises(ValueError, match="server_threads must be an int of 1 or more, not"):
        durable.start(server_threads=threads)
    assert not durable.health()["started"]


def test_a_deadline_that_is_none() -> None:
    """The error names the argument as it is written."""
    with pytest.raises(ValueError, match="deadline cannot be 'soon'"):
        made().run_due("soon")
