"""Fixtures for pytest. pytest finds this plugin by itself, where durable-core is installed.

The only module of the core that imports pytest. It imports the harness when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from durable_core.api.durable import Durable
    from durable_core.testing import Harness

__all__ = ["durable_app", "durable_harness", "pytest_addoption", "pytest_runtest_makereport"]

#: What a test has raised; None if it has passed.
_ERROR = pytest.StashKey[BaseException | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting ``durable_app`` to pytest's configuration file."""
    parser.addini("durable_app", help="the Durable that tests run, such as shop.main:durable")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember what a test has raised, for the end of its harness."""
    if call.when == "call":
        item.stash[_ERROR] = call.excinfo.value if call.excinfo is not None else None
    return (yield)


@pytest.fixture
def durable_app(pytestconfig: pytest.Config) -> Durable[Any]:
    """The application under test: the ``Durable`` that the setting ``durable_app`` names.

    A fixture of the same name in a ``conftest.py`` or a test module takes its place.

    Raises:
        pytest.UsageError: the setting is missing, or names no ``Durable``.
    """
    from durable_core.api.durable import Durable

    spec = str(pytestconfig.getini("durable_app") or "")
    module, _, name = spec.partition(":")
    if not module or not name:
        raise pytest.UsageError(
            "set durable_app to MODULE:NAME in pytest's configuration file, such as "
            f"'shop.main:durable', or define a fixture durable_app; it is {spec!r}"
        )
    app = getattr(import_module(module), name, None)
    if not isinstance(app, Durable):
        raise pytest.UsageError(f"durable_app = {spec!r} names no Durable, but {app!r}")
    return app


@pytest.fixture
def durable_harness(durable_app: Durable[Any], request: pytest.FixtureRequest) -> Iterator[Harness]:
    """A harness of the application under test, as ``with harness(durable_app) as t`` gives it.

    For plain tests. In tests on an event loop write ``async with harness(durable_app) as t``.
    """
    from durable_core.testing import harness

    block = harness(durable_app)
    yield block.__enter__()
    error = request.node.stash.get(_ERROR, None)
    block.__exit__(None if error is None else type(error), error, None)
