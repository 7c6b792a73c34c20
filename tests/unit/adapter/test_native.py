"""What adapters of frameworks know of the application that endpoints are in."""

from __future__ import annotations

import gc
import weakref

import pytest

from durable_core.adapter.native import Hosts, check_durable
from durable_core.api.durable import Durable
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.errors import ConfigurationError
from durable_core.stores.memory import MemoryStore


def test_a_host_for_each_engine() -> None:
    """An engine has one host in each framework."""
    flask: Hosts[str, str] = Hosts("install it")
    django: Hosts[str, str] = Hosts("install it")
    one, other = EmbeddedEngine(), EmbeddedEngine()

    assert flask.of(one) is flask.of(one)
    assert 3 == len({id(flask.of(one)), id(flask.of(other)), id(django.of(one))})


def test_an_engine_that_nobody_needs_any_more_goes() -> None:
    """Although its host leads to its handlers, and these to the engine."""
    hosts: Hosts[str, EmbeddedEngine] = Hosts("install it")
    engine = EmbeddedEngine()
    hosts.of(engine).waiting = engine
    gone = weakref.ref(engine)

    del engine
    gc.collect()

    assert gone() is None


def test_an_application_that_is_not_known() -> None:
    """It is missed only where there are endpoints; the error has the remedy."""
    hosts: Hosts[str, str] = Hosts("install it")
    host = hosts.of(EmbeddedEngine())
    host.check_installed()
    host.functions.add(print)

    with pytest.raises(ConfigurationError, match="install it"):
        host.check_installed()


def test_what_is_installed() -> None:
    """With swapped arguments the application stands where the Durable does."""
    application = object()
    with pytest.raises(ConfigurationError, match="needs the Durable of the endpoints, not <object"):
        check_durable(application)
    check_durable(Durable(id="shop", store=MemoryStore()))
