"""The façade ``durable_core``: it loads its names when one is used."""

from __future__ import annotations

import pytest

import durable_core
from durable_core import _public


def test_names_are_those_of_the_module_behind_it() -> None:
    """Each public name is an attribute, and ``dir`` shows it beside the version."""
    assert durable_core.__all__ == _public.__all__
    assert {name: getattr(_public, name) for name in _public.__all__} == {
        name: getattr(durable_core, name) for name in durable_core.__all__
    }
    assert {*durable_core.__all__, "__version__"} <= set(dir(durable_core))


@pytest.mark.parametrize("name", ["nothing", "_nothing", "annotations_", "__wrapped__"])
def test_unknown_name_is_an_attribute_error(name: str) -> None:
    """A name the façade does not have is an AttributeError that says so."""
    with pytest.raises(AttributeError, match=f"module 'durable_core' has no attribute '{name}'"):
        getattr(durable_core, name)
