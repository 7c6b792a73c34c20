"""The forms of pydantic's models and msgspec's structs, where the application has imported them."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from durable_core.codec.forms import Form, UnknownTypeError, expect, member, refuse

__all__ = ["fill_msgspec", "fill_pydantic", "is_msgspec", "is_pydantic"]


def is_pydantic(kind: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def fill_pydantic(form: Form, kind: Any) -> None:
    if not hasattr(kind, "model_validate_json"):
        raise UnknownTypeError(f"{form.name} is a model of pydantic 1; pydantic 2 is needed")
    import json

    # By the names of the fields: an alias for reading need not be the one for writing.
    by_name = "by_name" in inspect.signature(kind.model_validate_json).parameters
    reading = {"by_alias": False, "by_name": True} if by_name else {}

    def dump(value: Any, path: str) -> Any:
        if type(value) is not kind:
            expect(form.name, value, path)
        try:
            dumped = value.model_dump(mode="json", by_alias=not by_name, round_trip=True)
        except Exception as error:  # serializers of the user's
            raise TypeError(f"{path}: {form.name} cannot be dumped: {error}") from error
        _check_same(form.name, value, load(dumped, path), path)
        return dumped

    def load(value: Any, path: str) -> Any:
        try:
            return kind.model_validate_json(json.dumps(value), **reading)
        except Exception as error:
            raise TypeError(_pydantic_error(form.name, path, error)) from error

    form.dump, form.load = dump, load


def _pydantic_error(name: str, path: str, error: Any) -> str:
    try:
        first = error.errors()[0]
        for part in first["loc"]:
            path = f"{path}[{part}]" if isinstance(part, int) else member(path, part)
        return f"{path}: {name} refuses it: {first['msg']}"
    except Exception:  # no ValidationError
        return f"{path}: {name} refuses it: {error}"


def _check_same(name: str, value: object, again: object, path: str) -> None:
    """See that nothing is lost that a library leaves out, such as a secret or a private field."""
    if again != value:
        refuse(path, f"{name} would not come back the same; {again!r:.200} is what would come")


def is_msgspec(kind: type) -> bool:
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and issubclass(kind, msgspec.Struct)


def fill_msgspec(form: Form, kind: type) -> None:
    import json

    msgspec: Any = sys.modules["msgspec"]
    decoder = msgspec.json.Decoder(kind)

    def dump(value: Any, path: str) -> Any:
        if type(value) is not kind:
            expect(form.name, value, path)
        try:
            dumped = json.loads(msgspec.json.encode(value))
        except Exception as error:  # a field that msgspec does not know
            raise TypeError(f"{path}: {form.name} cannot be dumped: {error}") from error
        _check_same(form.name, value, load(dumped, path), path)
        return dumped

    def load(value: Any, path: str) -> Any:
        try:
            return decoder.decode(json.dumps(value))
        except Exception as error:
            raise TypeError(f"{path}: {form.name} refuses it: {error}") from error

    form.dump, form.load = dump, load
