"""How values become JSON: the forms of simple types, and of those that are made of others."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import decimal
import enum
import inspect
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from durable_core.codec.json import type_name

__all__ = [
    "SIMPLE_FORMS",
    "Form",
    "UnknownTypeError",
    "dump_fields",
    "expect",
    "fill_enum",
    "fill_msgspec",
    "fill_pydantic",
    "is_msgspec",
    "is_pydantic",
    "load_fields",
    "member",
    "object_form",
    "optional",
    "pairs",
    "plain_dict",
    "plain_union",
    "refuse",
    "same",
    "sequence",
    "tagged",
]


class UnknownTypeError(TypeError):
    """There is no form in JSON for a type; the message names the type, and the part of it."""


_Convert = Callable[[Any, str], Any]


@dataclasses.dataclass(slots=True)
class Form:
    """How the values of one type become JSON.

    Attributes:
        name: the type, for messages.
        dump, load: convert a value at a path.
        accepts: tells whether a value may be of this type, by its class.
        is_plain: both return what they get.
        is_text: the JSON value is always a string, so it may be a key.
    """

    name: str
    dump: _Convert
    load: _Convert
    accepts: Callable[[Any], bool]
    is_plain: bool = False
    is_text: bool = False


def refuse(path: str, reason: str) -> NoReturn:
    raise TypeError(f"{path}: {reason}")


def expect(form_name: str, value: object, path: str) -> NoReturn:
    refuse(path, f"expected {form_name}, not {type_name(type(value))}")


def member(path: str, name: object) -> str:
    text = str(name)
    return f"{path}.{text}" if text.isidentifier() else f"{path}[{text!r}]"


def same(value: Any, path: str) -> Any:
    return value


def _any(name: str = "Any") -> Form:
    return Form(name, same, same, lambda value: True, is_plain=True)


def _scalar(kind: type, *also: type) -> Form:
    kinds, name = (kind, *also), "None" if kind is type(None) else kind.__name__

    def check(value: Any, path: str) -> Any:
        if type(value) not in kinds:
            expect(name, value, path)
        return value

    def accepts(value: Any) -> bool:
        return type(value) in kinds

    return Form(name, check, check, accepts, is_plain=True, is_text=kind is str)


def _text_form(kind: type, to_text: Callable[[Any], str], from_text: Callable[[str], Any]) -> Form:
    """Return the form of a type whose values have a text."""
    name = kind.__name__

    def accepts(value: Any) -> bool:
        return isinstance(value, kind) and not (kind in _NO_SUBCLASS and type(value) is not kind)

    def dump(value: Any, path: str) -> str:
        if not accepts(value):
            expect(name, value, path)
        return to_text(value)

    def load(value: Any, path: str) -> Any:
        if type(value) is not str:
            expect(f"the text of a {name}", value, path)
        try:
            return from_text(value)
        except (ValueError, ArithmeticError) as error:
            raise TypeError(f"{path}: {value[:60]!r} is no {name}: {error}") from error

    return Form(name, dump, load, accepts, is_text=True)


#: A datetime is a date, too, and would come back as one.
_NO_SUBCLASS = frozenset({datetime.date})

_SPAN = re.compile(r"(-?)PT(\d+)\.(\d{6})S")
_MICROSECOND = datetime.timedelta(microseconds=1)


def _dump_span(span: datetime.timedelta) -> str:
    total = span // _MICROSECOND
    seconds, rest = divmod(abs(total), 1_000_000)
    return f"{'-' if total < 0 else ''}PT{seconds}.{rest:06d}S"


def _load_span(text: str) -> datetime.timedelta:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError("it is not like 'PT1.500000S'")
    total = int(found[2]) * 1_000_000 + int(found[3])
    return datetime.timedelta(microseconds=-total if found[1] else total)


def _load_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _dump_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _simple_forms() -> dict[object, Form]:
    return {
        **{each: _any(name) for each, name in ((Any, "Any"), (object, "object"))},
        str: _scalar(str),
        int: _scalar(int, bool),
        float: _scalar(float, int),
        bool: _scalar(bool),
        type(None): _scalar(type(None)),
        datetime.datetime: _text_form(
            datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat
        ),
        datetime.date: _text_form(
            datetime.date, datetime.date.isoformat, datetime.date.fromisoformat
        ),
        datetime.time: _text_form(
            datetime.time, datetime.time.isoformat, datetime.time.fromisoformat
        ),
        datetime.timedelta: _text_form(datetime.timedelta, _dump_span, _load_span),
        uuid.UUID: _text_form(uuid.UUID, str, uuid.UUID),
        decimal.Decimal: _text_form(decimal.Decimal, str, decimal.Decimal),
        bytes: _text_form(bytes, _dump_bytes, _load_bytes),
        bytearray: _text_form(bytearray, _dump_bytes, lambda text: bytearray(_load_bytes(text))),
    }


SIMPLE_FORMS = _simple_forms()


def plain_union(name: str, members: list[Form]) -> Form:
    def accepts(value: Any) -> bool:
        return any(each.accepts(value) for each in members)

    def check(value: Any, path: str) -> Any:
        if not accepts(value):
            expect(name, value, path)
        return value

    is_text = all(each.is_text for each in members)
    return Form(name, check, check, accepts, is_plain=True, is_text=is_text)


def optional(name: str, some: Form) -> Form:
    """A value or None: JSON's null stands for None, for no other value has it as its form."""

    def dump(value: Any, path: str) -> Any:
        return None if value is None else some.dump(value, path)

    def load(value: Any, path: str) -> Any:
        return None if value is None else some.load(value, path)

    return Form(name, dump, load, lambda value: value is None or some.accepts(value))


def tagged(name: str, members: list[Form]) -> Form:
    """A value of one of several types: JSON alone would not tell a date from its text."""
    members = sorted(members, key=lambda each: each.load is same)  # Any takes what others leave

    def dump(value: Any, path: str) -> dict[str, Any]:
        for each in members:
            if each.accepts(value):
                try:
                    return {"type": each.name, "value": each.dump(value, path)}
                except TypeError:
                    continue  # of the same class, and other elements
        expect(name, value, path)

    def load(value: Any, path: str) -> Any:
        if type(value) is not dict or value.keys() != {"type", "value"}:
            refuse(path, f"expected an object with 'type' and 'value' for {name}")
        for each in members:
            if each.name == value["type"]:
                return each.load(value["value"], path)
        refuse(path, f"{value['type']!r} is none of {name}")

    return Form(name, dump, load, lambda value: any(each.accepts(value) for each in members))


def _plain_list(name: str, item: Form) -> Form:
    def check(value: Any, path: str) -> Any:
        if type(value) is not list:
            expect(name, value, path)
        if item.load is not same:
            for index, each in enumerate(value):
                item.load(each, f"{path}[{index}]")
        return value

    return Form(name, check, check, lambda value: type(value) is list, is_plain=True)


def plain_dict(name: str, items: Form) -> Form:
    def check(value: Any, path: str) -> Any:
        if type(value) is not dict:
            expect(name, value, path)
        if items.load is not same:
            for key, item in value.items():
                items.load(item, member(path, key))
        return value

    return Form(name, check, check, lambda value: type(value) is dict, is_plain=True)


def sequence(
    name: str,
    item: Form,
    make: Callable[[Iterable[Any]], Any],
    kinds: tuple[type, ...] = (tuple,),
) -> Form:
    if kinds == (list,) and item.is_plain:
        return _plain_list(name, item)

    def dump(value: Any, path: str) -> list[Any]:
        if type(value) not in kinds:
            expect(name, value, path)
        return [item.dump(each, f"{path}[{index}]") for index, each in enumerate(value)]

    def load(value: Any, path: str) -> Any:
        if type(value) is not list:
            expect(f"an array for {name}", value, path)
        items = [item.load(each, f"{path}[{index}]") for index, each in enumerate(value)]
        try:
            return make(items)
        except TypeError as error:
            raise TypeError(f"{path}: {error}") from error

    return Form(name, dump, load, lambda value: type(value) in kinds)


def object_form(name: str, keys: Form, items: Form) -> Form:
    def dump(value: Any, path: str) -> dict[str, Any]:
        if type(value) is not dict:
            expect(name, value, path)
        return {
            keys.dump(key, f"{path} (a key)"): items.dump(item, member(path, key))
            for key, item in value.items()
        }

    def load(value: Any, path: str) -> dict[Any, Any]:
        if type(value) is not dict:
            expect(f"an object for {name}", value, path)
        return {
            keys.load(key, f"{path} (a key)"): items.load(item, member(path, key))
            for key, item in value.items()
        }

    return Form(name, dump, load, lambda value: type(value) is dict)


def pairs(name: str, keys: Form, items: Form) -> Form:
    """A dict whose keys are no texts: JSON has it as an array of pairs."""

    def dump(value: Any, path: str) -> list[list[Any]]:
        if type(value) is not dict:
            expect(name, value, path)
        return [
            [keys.dump(key, f"{path} (a key)"), items.dump(item, f"{path}[{key!r}]")]
            for key, item in value.items()
        ]

    def load(value: Any, path: str) -> dict[Any, Any]:
        if type(value) is not list or any(type(e) is not list or len(e) != 2 for e in value):
            refuse(path, f"expected an array of pairs for {name}")
        return {
            keys.load(key, f"{path} (a key)"): items.load(item, f"{path}[{key!r}]")
            for key, item in value
        }

    return Form(name, dump, load, lambda value: type(value) is dict)


def dump_fields(
    name: str, kind: type, forms: Mapping[str, Form], get: Callable[[Any, str], Any]
) -> _Convert:
    def dump(value: Any, path: str) -> dict[str, Any]:
        if type(value) is not kind:
            expect(name, value, path)
        return {
            field: form.dump(get(value, field), member(path, field))
            for field, form in forms.items()
        }

    return dump


def load_fields(
    name: str,
    forms: Mapping[str, Form],
    required: Iterable[str],
    make: Callable[[dict[str, Any]], Any],
) -> _Convert:
    needed = tuple(required)

    def load(value: Any, path: str) -> Any:
        if type(value) is not dict:
            expect(f"an object for {name}", value, path)
        for field in needed:
            if field not in value:
                refuse(member(path, field), f"{name} needs it, and it is not there")
        values = {
            field: form.load(value[field], member(path, field))
            for field, form in forms.items()
            if field in value
        }
        try:
            return make(values)
        except Exception as error:  # what a class checks when it is made
            raise TypeError(f"{path}: {name} refuses it: {error}") from error

    return load


def fill_enum(form: Form, kind: type[enum.Enum]) -> None:
    """Enumerations go by their values where those are texts or ints, else by their names."""
    values = [each.value for each in kind]
    by_value = issubclass(kind, enum.Flag) or all(type(each) in (str, int) for each in values)
    form.is_text = by_value and all(type(each) is str for each in values) and bool(values)

    def dump(value: Any, path: str) -> Any:
        if type(value) is not kind and not isinstance(value, kind):
            expect(form.name, value, path)
        return value.value if by_value else value.name

    def load(value: Any, path: str) -> Any:
        try:
            return kind(value) if by_value else kind[value]
        except (KeyError, ValueError, TypeError) as error:
            raise TypeError(f"{path}: {value!r:.60} is no {form.name}") from error

    form.dump, form.load = dump, load
    form.is_text = form.is_text or not by_value
    form.accepts = lambda value: isinstance(value, kind)


# --- pydantic and msgspec -------------------------------------------------------------------------
#
# Their models and structs, where the application has imported them.


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
