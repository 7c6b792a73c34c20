"""The stand-alone worker: finding the application. Its work is tested in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_core.cli.application import load_durable, work
from durable_core.errors import ConfigurationError


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_load_durable(modules: Path) -> None:
    """The text names a module and an attribute in it, which may be dotted."""
    (modules / "worker_a.py").write_text(
        "from durable_core import Durable\nclass Shop:\n    durable = Durable(id='a')\n"
    )

    assert "a" == load_durable("worker_a:Shop.durable").id


def test_a_module_that_no_import_statement_names(modules: Path) -> None:
    """The file of an application may have a hyphen in its name, or begin with a digit."""
    text = "from durable_core import Durable\ndurable = Durable(id='a')\n"
    for name in ("my-shop", "2030_shop"):
        (modules / f"{name}.py").write_text(text)
        assert "a" == load_durable(f"{name}:durable").id


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("..:x", "written like shop:durable"),
        ("shop", "written like shop:durable"),
        (":durable", "written like shop:durable"),
        ("json:", "written like shop:durable"),
        ('{"name":"x"}', "the name of an event, stands before it"),
        ("json:loads", "json:loads is no Durable, but of type function"),
        ("json:x.y", "there is no 'x.y' in the module 'json'"),
        ("no_such_module:durable", "there is no module 'no_such_module'"),
        ("json.no_such_module:durable", "there is no module 'json.no_such_module'"),
    ],
)
def test_what_is_no_application(target: str, message: str) -> None:
    """What cannot be found is a ConfigurationError that says which part is missing."""
    with pytest.raises(ConfigurationError, match=message):
        load_durable(target)


def test_module_that_cannot_import_something_else(modules: Path) -> None:
    """A module that is there and fails on an import of its own shows that error."""
    (modules / "worker_b.py").write_text("import no_such_module\n")

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_durable("worker_b:durable")


def test_application_without_endpoints(modules: Path) -> None:
    """A worker that would have nothing to do does not start."""
    (modules / "worker_c.py").write_text(
        "from durable_core import Durable\ndurable = Durable(id='c')\n"
    )

    with pytest.raises(ConfigurationError, match=r"has no endpoints; .*--import"):
        work("worker_c:durable")


def test_an_engine_that_needs_no_worker(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused: the process would carry out nothing, and say that it works."""
    monkeypatch.setenv("INNGEST_DEV", "1")
    (modules / "worker_e.py").write_text(
        "from durable_core import Durable\n"
        "from durable_inngest import InngestEngine\n"
        "durable = Durable(id='e', engine=InngestEngine())\n"
    )

    with pytest.raises(ConfigurationError, match="worker_e:durable needs no worker"):
        work("worker_e:durable")
