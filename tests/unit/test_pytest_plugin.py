"""The fixtures of the pytest plugin, in processes of pytest."""

from __future__ import annotations

import pytest

SHOP = """
from durable_core import Durable, Request, endpoint_adapter
from durable_core.sync import step

durable = Durable(id="shop", endpoint_adapter=endpoint_adapter)
nothing = object()


@durable.endpoint
def order(request: Request) -> str:
    step.run("reserve", str)
    step.sleep("rest", "24h")
    return "done"
"""
TEST = """
import shop


def test_order(durable_harness):
    reply = durable_harness.client(shop.order).get("/order")
    durable_harness.advance("24h")
    assert reply.result().json() == "done"
"""


def run(pytester: pytest.Pytester, test: str, *, setting: str = "shop:durable") -> pytest.RunResult:
    """Run a test module beside an application, in an interpreter of its own."""
    pytester.makepyfile(shop=SHOP, test_shop=test)
    pytester.makeini(f"[pytest]\npythonpath = .\ndurable_app = {setting}\n")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


def test_a_harness_of_the_application(pytester: pytest.Pytester) -> None:
    """The setting names the application; pytest finds the plugin without further ado."""
    run(pytester, TEST).assert_outcomes(passed=1)


def test_each_test_has_its_own_harness(pytester: pytest.Pytester) -> None:
    """The store is empty, and the clock is back at its beginning."""
    second = (
        TEST.replace("test_order", "test_again") + "    assert len(durable_harness.runs()) == 1"
    )

    run(pytester, f"{TEST}\n{second}").assert_outcomes(passed=2)


def test_a_fixture_takes_the_place_of_the_setting(pytester: pytest.Pytester) -> None:
    """A test module may define ``durable_app`` itself."""
    own = "import pytest, shop\n\n@pytest.fixture\ndef durable_app(): return shop.durable\n"

    run(pytester, f"{own}{TEST}", setting="").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("", "*set durable_app to MODULE:NAME*it is ''*"),
        ("shop", "*set durable_app to MODULE:NAME*it is 'shop'*"),
        ("shop:nothing", "*durable_app = 'shop:nothing' names no Durable*"),
        ("shop:missing", "*durable_app = 'shop:missing' names no Durable, but None*"),
    ],
)
def test_settings_that_name_no_application(
    pytester: pytest.Pytester, setting: str, said: str
) -> None:
    """The error says what the setting must be, and what it is."""
    result = run(pytester, TEST, setting=setting)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])


def test_planned_faults_must_happen(pytester: pytest.Pytester) -> None:
    """A test whose planned crash has not happened has an error; one that fails, only its own."""
    plan = "def test_{}(durable_harness):\n    durable_harness.crash_after('no-step')\n    {}\n"
    result = run(pytester, plan.format("passes", "") + plan.format("fails", "assert not 1"))

    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*UnusedFaultError: crash_after('no-step') did not happen*"])


def test_the_plugin_costs_nothing_without_a_fixture(pytester: pytest.Pytester) -> None:
    """A test that uses no fixture loads nothing of the library but the plugin itself."""
    test = """
import sys


def test_nothing():
    loaded = {name for name in sys.modules if name.startswith("durable_core")}
    assert {"durable_core", "durable_core.pytest_plugin"} == loaded
"""
    pytester.makepyfile(test)

    pytester.runpytest_subprocess("-p", "no:durable_conformance.plugin").assert_outcomes(passed=1)
