"""Servers whose threads are not threads."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from durable_core.errors import ConfigurationError
from durable_core.platform import check_threading


def module(name: str, **attributes: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(attributes)
    return made


def test_ordinary_process() -> None:
    """Nothing is refused here."""
    check_threading()


@pytest.mark.parametrize(
    ("name", "attributes", "library"),
    [
        ("gevent.monkey", {"is_module_patched": lambda name: name == "threading"}, "gevent"),
        ("eventlet.patcher", {"is_monkey_patched": lambda name: name == "thread"}, "eventlet"),
        ("uwsgi", {"opt": {"processes": b"2"}}, "uWSGI"),
    ],
)
def test_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, attributes: dict[str, Any], library: str
) -> None:
    """Patched threads, and uWSGI without threads, are refused by name."""
    monkeypatch.setitem(sys.modules, name, module(name, **attributes))
    with pytest.raises(ConfigurationError, match=library):
        check_threading()


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("gevent.monkey", {"is_module_patched": lambda name: False}),
        ("eventlet.patcher", {"is_monkey_patched": lambda name: False}),
        ("uwsgi", {"opt": {"enable-threads": True}}),
        ("uwsgi", {"opt": {"threads": b"4"}}),
    ],
)
def test_not_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, attributes: dict[str, Any]
) -> None:
    """The same libraries are welcome where they leave threads alone."""
    monkeypatch.setitem(sys.modules, name, module(name, **attributes))
    check_threading()
