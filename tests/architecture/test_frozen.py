"""What a run consists of cannot be changed behind its back."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import durable_core.machine
import durable_core.model

#: What every step, request or chunk makes. These are frozen for the type checker alone, because a
#: class that is frozen at run time takes three to five times as long to make.
RECORDS = {"Memo", "Op", "OpEnded", "Pending", "Pushed", "Run", "SaveMemo", "Transition"}


def test_what_the_model_describes_is_frozen() -> None:
    """Every other data class of ``model`` and ``machine`` is frozen at run time."""
    classes = {
        value
        for package in (durable_core.machine, durable_core.model)
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
        for value in vars(importlib.import_module(found.name)).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    }

    assert len(classes) >= 35
    assert RECORDS == {
        each.__name__
        for each in classes
        if not each.__dataclass_params__.frozen  # type: ignore[attr-defined]
    }
