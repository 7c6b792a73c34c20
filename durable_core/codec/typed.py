"""Values of Python types as JSON values, and back: what results of steps and events are made of.

A type says how its values become JSON: a ``datetime`` becomes its ISO 8601 text, a dataclass an
object with its fields, a tuple an array. From the same type and the JSON value comes an equal value
of that type. The JSON value is one of those that ``JSONCodec`` takes; ``JSONCodec`` checks what is
left to ``Any``.

Known are the types of the standard library, pydantic's models and msgspec's structs. Those two are
found where the application has imported them; they are never imported here.
"""

from __future__ import annotations

import base64
import binascii
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

__all__ = ["UnknownTypeError", "ValueType", "result_type", "return_type", "value_type"]


class UnknownTypeError(TypeError):
    """There is no form in JSON for a type; the message names the type, and the part of it."""


class ValueType:
    """One type, and how its values become JSON.

    Attributes:
        name: the type as people write it.
        is_plain: its values are JSON values already.
    """

    __slots__ = ("_form", "is_plain", "name")

    def __init__(self, form: _Form) -> None:
        self._form = form
        self.name = form.name
        self.is_plain = form.is_plain

    def dump(self, value: object) -> object:
        """Return the JSON value of a value.

        Raises:
            TypeError: the value is not of the type; the message begins with the path of the part
                that is not, such as ``$.items[2].price``.
        """
        try:
            return self._form.dump(value, "$")
        except RecursionError:
            raise TypeError("$: the value is nested too deep, or contains itself") from None

    def load(self, value: object) -> object:
        """Return the value of a JSON value.

        Raises:
            TypeError: the JSON value is none of the type; the message begins with the path.
        """
        try:
            return self._form.load(value, "$")
        except RecursionError:
            raise TypeError("$: the value is nested too deep") from None


def value_type(hint: object) -> ValueType:
    """Return the type of an annotation.

    Args:
        hint: a class, or what ``typing`` makes, such as ``list[Order] | None``.

    Raises:
        UnknownTypeError: it has no form in JSON, or names what cannot be found.
    """
    if isinstance(hint, collections.abc.Hashable):
        try:
            return _known_type(hint)
        except UnknownTypeError:
            raise
        except TypeError:  # a part of it cannot be hashed, so nothing remembers it
            pass
    return _make_type(hint)


def _make_type(hint: object) -> ValueType:
    try:
        return ValueType(_Builder().form(hint))
    except RecursionError:
        raise UnknownTypeError(f"{_shown(hint)} contains itself without an end") from None


_known_type = functools.lru_cache(maxsize=1024)(_make_type)


_RETURNS: WeakKeyDictionary[Callable[..., object], ValueType | None] = WeakKeyDictionary()


def result_type(fn: Callable[..., object]) -> ValueType | None:
    """As :func:`return_type`, remembered for each function; None also for an unknown type."""
    function = getattr(fn, "__func__", fn)
    try:
        return _RETURNS[function]
    except (KeyError, TypeError):  # TypeError: it takes no weak reference, or no hash
        pass
    try:
        known = return_type(function)
    except UnknownTypeError:
        known = None
    try:
        _RETURNS[function] = known
    except TypeError:
        pass
    return known


def return_type(fn: Callable[..., object], *, besides: tuple[type, ...] = ()) -> ValueType | None:
    """Return the type of what a function returns, as far as its annotation says it.

    Seen through are ``functools.partial``, bound methods, objects with ``__call__``, and functions
    whose result is awaited. A class stands for its instances.

    Args:
        fn: the function.
        besides: classes that it may return as well, and that do not matter.

    Returns:
        None if the annotation is missing, or its values are JSON values already.

    Raises:
        UnknownTypeError: the annotation has no form in JSON, or names what cannot be found.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        hint: object = fn
    else:
        if not hasattr(fn, "__annotations__") and not inspect.isroutine(fn):
            fn = type(fn).__call__
        hint = _return_hint(fn)
        if hint is inspect.Parameter.empty:
            return None
    hint = _without(_awaited(hint), besides)
    if hint is inspect.Parameter.empty:
        return None
    known = value_type(hint)
    return None if known.is_plain else known


def _return_hint(fn: Callable[..., object]) -> object:
    fn = getattr(fn, "__func__", fn)
    annotations: Mapping[str, object] = getattr(fn, "__annotations__", None) or {}
    if "return" not in annotations:
        return inspect.Parameter.empty
    hint = annotations["return"]
    holder = types.SimpleNamespace(__annotations__={"return": hint})
    names = getattr(inspect.unwrap(fn), "__globals__", {})
    return _resolved(holder, names, f"the return annotation {hint!r}")["return"]


def _resolved(holder: Any, names: dict[str, object] | None, what: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(holder, names, include_extras=True)
    except Exception as error:  # evaluating an annotation may do anything
        raise UnknownTypeError(f"{what} cannot be resolved: {error}") from error


def _without(hint: object, besides: tuple[type, ...]) -> object:
    """Return an annotation without some classes; empty if nothing is left."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        left = [each for each in typing.get_args(hint) if each not in besides]
        if not left:
            return inspect.Parameter.empty
        return functools.reduce(lambda one, other: one | other, left)
    return inspect.Parameter.empty if hint in besides else hint


def _awaited(hint: object) -> object:
    """Return what comes of awaiting, for what is awaited; else the same."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (collections.abc.Awaitable, collections.abc.Coroutine) and args:
        return args[-1]
    return hint


# --- forms ----------------------------------------------------------------------------------------

_Convert = Callable[[Any, str], Any]


@dataclasses.dataclass(slots=True)
class _Form:
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


def _refuse(path: str, reason: str) -> NoReturn:
    raise TypeError(f"{path}: {reason}")


def _expect(form_name: str, value: object, path: str) -> NoReturn:
    _refuse(path, f"expected {form_name}, not {_type_name(type(value))}")


def _type_name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _member(path: str, name: object) -> str:
    text = str(name)
    return f"{path}.{text}" if text.isidentifier() else f"{path}[{text!r}]"


def _same(value: Any, path: str) -> Any:
    return value


def _any(name: str = "Any") -> _Form:
    return _Form(name, _same, _same, lambda value: True, is_plain=True)


def _scalar(kind: type, *also: type) -> _Form:
    kinds, name = (kind, *also), "None" if kind is type(None) else kind.__name__

    def check(value: Any, path: str) -> Any:
        if type(value) not in kinds:
            _expect(name, value, path)
        return value

    def accepts(value: Any) -> bool:
        return type(value) in kinds

    return _Form(name, check, check, accepts, is_plain=True, is_text=kind is str)


def _text_form(kind: type, to_text: Callable[[Any], str], from_text: Callable[[str], Any]) -> _Form:
    """Return the form of a type whose values have a text."""
    name = kind.__name__

    def accepts(value: Any) -> bool:
        return isinstance(value, kind) and not (kind in _NO_SUBCLASS and type(value) is not kind)

    def dump(value: Any, path: str) -> str:
        if not accepts(value):
            _expect(name, value, path)
        return to_text(value)

    def load(value: Any, path: str) -> Any:
        if type(value) is not str:
            _expect(f"the text of a {name}", value, path)
        try:
            return from_text(value)
        except (ValueError, ArithmeticError) as error:
            raise TypeError(f"{path}: {value[:60]!r} is no {name}: {error}") from error

    return _Form(name, dump, load, accepts, is_text=True)


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


def _simple_forms() -> dict[object, _Form]:
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


_SIMPLE = _simple_forms()

#: Containers: what they are loaded as, and what else is taken for one.
_ITERABLES: Mapping[object, tuple[Callable[[Iterable[Any]], Any], tuple[type, ...]]] = {
    list: (list, (list,)),
    set: (set, (set,)),
    frozenset: (frozenset, (frozenset,)),
    collections.abc.Sequence: (list, (list, tuple)),
    collections.abc.MutableSequence: (list, (list,)),
    collections.abc.Collection: (list, (list, tuple)),
    collections.abc.Iterable: (list, (list, tuple)),
    collections.abc.Set: (set, (set, frozenset)),
    collections.abc.MutableSet: (set, (set,)),
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class _Builder:
    """Makes the form of one annotation. A class may contain itself, so it knows what it is at."""

    def __init__(self) -> None:
        self._begun: dict[object, _Form] = {}

    def form(self, hint: object, variables: Mapping[object, object] | None = None) -> _Form:
        """Return the form of an annotation; ``variables`` is what stands for its type variables."""
        hint = _unwrapped(_substituted(hint, variables or {}))
        simple = _SIMPLE.get(hint) if isinstance(hint, collections.abc.Hashable) else None
        if simple is not None:
            return simple
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Literal:
            return self._literal(args)
        if origin in (typing.Union, types.UnionType):
            return self._union(args)
        kind = origin if origin is not None else hint
        if kind is tuple:
            return self._tuple(args if origin is not None else (Any, ...))
        if kind in _ITERABLES:
            return self._iterable(kind, args[0] if args else Any)
        if kind in _MAPPINGS:
            return self._mapping(*(args or (Any, Any)))
        if isinstance(kind, type):
            return self._class(kind, args, hint)
        raise UnknownTypeError(f"{_shown(hint)} has no form in JSON")

    # -- unions ---------------------------------------------------------------------------------

    def _literal(self, values: tuple[Any, ...]) -> _Form:
        name = f"Literal[{', '.join(map(repr, values))}]"
        if any(type(value) not in (str, int, bool, type(None)) for value in values):
            return self._union(tuple({type(value): None for value in values}), name)

        def accepts(value: Any) -> bool:
            return any(type(value) is type(each) and value == each for each in values)

        def check(value: Any, path: str) -> Any:
            if not accepts(value):
                _refuse(path, f"expected {name}, not {value!r:.60}")
            return value

        is_text = all(type(value) is str for value in values)
        return _Form(name, check, check, accepts, is_plain=True, is_text=is_text)

    def _union(self, hints: tuple[Any, ...], name: str | None = None) -> _Form:
        members = [self.form(each) for each in hints]
        name = name or " | ".join(each.name for each in members)
        if len(members) == 1:
            return members[0]
        if all(each.is_plain for each in members):
            return _plain_union(name, members)
        some = [each for each in members if each.name != "None"]
        if len(some) == 1:
            return _optional(name, some[0])
        names = [each.name for each in some]
        twice = {each for each in names if names.count(each) > 1}
        if twice:
            raise UnknownTypeError(f"{name} has two members with the name {min(twice)}")
        return _tagged(name, members)

    # -- containers -----------------------------------------------------------------------------

    def _tuple(self, args: tuple[Any, ...]) -> _Form:
        if len(args) == 2 and args[1] is Ellipsis:
            return _sequence(f"tuple[{_name_of(self, args[0])}, ...]", self.form(args[0]), tuple)
        forms = [self.form(each) for each in args]
        name = f"tuple[{', '.join(each.name for each in forms) or '()'}]"

        def convert(value: Any, path: str, which: str) -> list[Any]:
            if len(value) != len(forms):
                _refuse(path, f"expected {name}, not {len(value)} elements")
            return [
                getattr(form, which)(item, f"{path}[{index}]")
                for index, (form, item) in enumerate(zip(forms, value, strict=True))
            ]

        def dump(value: Any, path: str) -> list[Any]:
            if type(value) is not tuple:
                _expect(name, value, path)
            return convert(value, path, "dump")

        def load(value: Any, path: str) -> tuple[Any, ...]:
            if type(value) is not list:
                _expect(f"an array for {name}", value, path)
            return tuple(convert(value, path, "load"))

        return _Form(name, dump, load, lambda value: type(value) is tuple)

    def _iterable(self, kind: object, item: object) -> _Form:
        make, kinds = _ITERABLES[kind]
        form = self.form(item)
        name = f"{getattr(kind, '__name__', kind)}[{form.name}]"
        return _sequence(name, form, make, kinds)

    def _mapping(self, key: object, item: object) -> _Form:
        keys, items = self.form(key), self.form(item)
        name = f"dict[{keys.name}, {items.name}]"
        if keys.is_plain and items.is_plain and (keys.is_text or keys.name in ("Any", "object")):
            return _plain_dict(name, items)
        return _object(name, keys, items) if keys.is_text else _pairs(name, keys, items)

    # -- classes --------------------------------------------------------------------------------

    def _class(self, kind: type, args: tuple[Any, ...], hint: object) -> _Form:
        begun = self._begun.get(hint)
        if begun is not None:
            return begun
        name = _shown(hint)
        form = _Form(name, _same, _same, lambda value: type(value) is kind)
        self._begun[hint] = form
        self._fill(form, kind, args)
        return form

    def _fill(self, form: _Form, kind: type, args: tuple[Any, ...]) -> None:
        """Make the form of a class what it is."""
        variables = dict(zip(getattr(kind, "__parameters__", ()), args, strict=False))
        if issubclass(kind, enum.Enum):
            _fill_enum(form, kind)
        elif _is_pydantic(kind):
            _fill_pydantic(form, kind)
        elif _is_msgspec(kind):
            _fill_msgspec(form, kind)
        elif dataclasses.is_dataclass(kind):
            self._fill_dataclass(form, kind, variables)
        elif typing.is_typeddict(kind):
            self._fill_typed_dict(form, kind, variables)
        elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
            self._fill_named_tuple(form, kind, variables)
        else:
            raise UnknownTypeError(f"{form.name} has no form in JSON")

    def _forms_of(
        self, kind: type, names: Iterable[str], variables: Mapping[object, object]
    ) -> dict[str, _Form]:
        hints = _resolved(kind, None, f"an annotation of {_shown(kind)}")
        forms = {}
        for name in names:
            try:
                forms[name] = self.form(hints.get(name, Any), variables)
            except UnknownTypeError as error:
                raise UnknownTypeError(f"{_shown(kind)}.{name}: {error}") from None
        return forms

    def _fill_dataclass(self, form: _Form, kind: Any, variables: Mapping[object, object]) -> None:
        fields = dataclasses.fields(kind)
        for name in inspect.signature(kind).parameters.keys() - {field.name for field in fields}:
            raise UnknownTypeError(f"{form.name}.{name} is no field, so nothing keeps its value")
        forms = self._forms_of(kind, [field.name for field in fields], variables)
        required = {
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        late = [field.name for field in fields if not field.init]

        def make(values: dict[str, Any]) -> Any:
            rest = {name: values.pop(name) for name in late if name in values}
            made = kind(**values)
            for name, value in rest.items():
                object.__setattr__(made, name, value)
            return made

        form.dump = _dump_fields(form.name, kind, forms, getattr)
        form.load = _load_fields(form.name, forms, required, make)

    def _fill_named_tuple(self, form: _Form, kind: Any, variables: Mapping[object, object]) -> None:
        forms = self._forms_of(kind, kind._fields, variables)
        required = set(kind._fields) - kind._field_defaults.keys()
        form.dump = _dump_fields(form.name, kind, forms, getattr)
        form.load = _load_fields(form.name, forms, required, lambda values: kind(**values))

    def _fill_typed_dict(self, form: _Form, kind: Any, variables: Mapping[object, object]) -> None:
        forms = self._forms_of(kind, kind.__annotations__, variables)
        required = _required_keys(kind)
        load = _load_fields(form.name, forms, required, lambda values: values)

        def dump(value: Any, path: str) -> dict[str, Any]:
            if type(value) is not dict:
                _expect(form.name, value, path)
            for name in value:
                if name not in forms:
                    _refuse(path, f"{form.name} has no key {name!r}")
            for name in required - value.keys():
                _refuse(path, f"{form.name} needs the key {name!r}")
            return {
                name: forms[name].dump(item, _member(path, name)) for name, item in value.items()
            }

        form.dump, form.load = dump, load
        form.accepts = lambda value: type(value) is dict


def _required_keys(kind: Any) -> set[str]:
    """Return the keys that each dict of a TypedDict has.

    The class itself does not know ``Required`` and ``NotRequired`` in annotations that are text.
    """
    required: set[str] = set(kind.__required_keys__)
    for name, hint in _resolved(kind, None, f"an annotation of {_shown(kind)}").items():
        origin = typing.get_origin(hint)
        if origin is typing.Required:
            required.add(name)
        elif origin is typing.NotRequired:
            required.discard(name)
    return required


def _unwrapped(hint: object) -> object:
    """Return the type itself: without Annotated, Required, NewType, Final and names of types."""
    while True:
        origin = typing.get_origin(hint)
        if origin in (typing.Annotated, typing.Required, typing.NotRequired, typing.Final):
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__  # type: ignore[attr-defined]
        elif hint is None:
            return type(None)
        else:
            return hint


def _substituted(hint: Any, variables: Mapping[object, object]) -> object:
    """Return an annotation with its type variables replaced; those that nobody gave are Any."""
    if isinstance(hint, typing.TypeVar):
        return variables.get(hint, Any)
    parameters = () if isinstance(hint, type) else getattr(hint, "__parameters__", ())
    if not variables or not parameters:
        return hint
    return hint[tuple(variables.get(each, Any) for each in parameters)]


def _shown(hint: object) -> str:
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__qualname__.replace("<locals>.", "").rpartition(".")[2]
    return repr(hint).replace("typing.", "").rpartition(".<locals>.")[2]


def _name_of(builder: _Builder, hint: object) -> str:
    return builder.form(hint).name


# --- the parts of forms ---------------------------------------------------------------------------


def _plain_union(name: str, members: list[_Form]) -> _Form:
    def accepts(value: Any) -> bool:
        return any(each.accepts(value) for each in members)

    def check(value: Any, path: str) -> Any:
        if not accepts(value):
            _expect(name, value, path)
        return value

    is_text = all(each.is_text for each in members)
    return _Form(name, check, check, accepts, is_plain=True, is_text=is_text)


def _optional(name: str, some: _Form) -> _Form:
    """A value or None: JSON's null stands for None, for no other value has it as its form."""

    def dump(value: Any, path: str) -> Any:
        return None if value is None else some.dump(value, path)

    def load(value: Any, path: str) -> Any:
        return None if value is None else some.load(value, path)

    return _Form(name, dump, load, lambda value: value is None or some.accepts(value))


def _tagged(name: str, members: list[_Form]) -> _Form:
    """A value of one of several types: JSON alone would not tell a date from its text."""
    members = sorted(members, key=lambda each: each.load is _same)  # Any takes what others leave

    def dump(value: Any, path: str) -> dict[str, Any]:
        for member in members:
            if member.accepts(value):
                try:
                    return {"type": member.name, "value": member.dump(value, path)}
                except TypeError:
                    continue  # of the same class, and other elements
        _expect(name, value, path)

    def load(value: Any, path: str) -> Any:
        if type(value) is not dict or value.keys() != {"type", "value"}:
            _refuse(path, f"expected an object with 'type' and 'value' for {name}")
        for member in members:
            if member.name == value["type"]:
                return member.load(value["value"], path)
        _refuse(path, f"{value['type']!r} is none of {name}")

    return _Form(name, dump, load, lambda value: any(each.accepts(value) for each in members))


def _plain_list(name: str, item: _Form) -> _Form:
    def check(value: Any, path: str) -> Any:
        if type(value) is not list:
            _expect(name, value, path)
        if item.load is not _same:
            for index, each in enumerate(value):
                item.load(each, f"{path}[{index}]")
        return value

    return _Form(name, check, check, lambda value: type(value) is list, is_plain=True)


def _plain_dict(name: str, items: _Form) -> _Form:
    def check(value: Any, path: str) -> Any:
        if type(value) is not dict:
            _expect(name, value, path)
        if items.load is not _same:
            for key, item in value.items():
                items.load(item, _member(path, key))
        return value

    return _Form(name, check, check, lambda value: type(value) is dict, is_plain=True)


def _sequence(
    name: str,
    item: _Form,
    make: Callable[[Iterable[Any]], Any],
    kinds: tuple[type, ...] = (tuple,),
) -> _Form:
    if kinds == (list,) and item.is_plain:
        return _plain_list(name, item)

    def dump(value: Any, path: str) -> list[Any]:
        if type(value) not in kinds:
            _expect(name, value, path)
        return [item.dump(each, f"{path}[{index}]") for index, each in enumerate(value)]

    def load(value: Any, path: str) -> Any:
        if type(value) is not list:
            _expect(f"an array for {name}", value, path)
        items = [item.load(each, f"{path}[{index}]") for index, each in enumerate(value)]
        try:
            return make(items)
        except TypeError as error:
            raise TypeError(f"{path}: {error}") from error

    return _Form(name, dump, load, lambda value: type(value) in kinds)


def _object(name: str, keys: _Form, items: _Form) -> _Form:
    def dump(value: Any, path: str) -> dict[str, Any]:
        if type(value) is not dict:
            _expect(name, value, path)
        return {
            keys.dump(key, f"{path} (a key)"): items.dump(item, _member(path, key))
            for key, item in value.items()
        }

    def load(value: Any, path: str) -> dict[Any, Any]:
        if type(value) is not dict:
            _expect(f"an object for {name}", value, path)
        return {
            keys.load(key, f"{path} (a key)"): items.load(item, _member(path, key))
            for key, item in value.items()
        }

    return _Form(name, dump, load, lambda value: type(value) is dict)


def _pairs(name: str, keys: _Form, items: _Form) -> _Form:
    """A dict whose keys are no texts: JSON has it as an array of pairs."""

    def dump(value: Any, path: str) -> list[list[Any]]:
        if type(value) is not dict:
            _expect(name, value, path)
        return [
            [keys.dump(key, f"{path} (a key)"), items.dump(item, f"{path}[{key!r}]")]
            for key, item in value.items()
        ]

    def load(value: Any, path: str) -> dict[Any, Any]:
        if type(value) is not list or any(type(e) is not list or len(e) != 2 for e in value):
            _refuse(path, f"expected an array of pairs for {name}")
        return {
            keys.load(key, f"{path} (a key)"): items.load(item, f"{path}[{key!r}]")
            for key, item in value
        }

    return _Form(name, dump, load, lambda value: type(value) is dict)


def _dump_fields(
    name: str, kind: type, forms: Mapping[str, _Form], get: Callable[[Any, str], Any]
) -> _Convert:
    def dump(value: Any, path: str) -> dict[str, Any]:
        if type(value) is not kind:
            _expect(name, value, path)
        return {
            field: form.dump(get(value, field), _member(path, field))
            for field, form in forms.items()
        }

    return dump


def _load_fields(
    name: str,
    forms: Mapping[str, _Form],
    required: Iterable[str],
    make: Callable[[dict[str, Any]], Any],
) -> _Convert:
    needed = tuple(required)

    def load(value: Any, path: str) -> Any:
        if type(value) is not dict:
            _expect(f"an object for {name}", value, path)
        for field in needed:
            if field not in value:
                _refuse(_member(path, field), f"{name} needs it, and it is not there")
        values = {
            field: form.load(value[field], _member(path, field))
            for field, form in forms.items()
            if field in value
        }
        try:
            return make(values)
        except Exception as error:  # what a class checks when it is made
            raise TypeError(f"{path}: {name} refuses it: {error}") from error

    return load


# --- enumerations ---------------------------------------------------------------------------------


def _fill_enum(form: _Form, kind: type[enum.Enum]) -> None:
    """Enumerations go by their values where those are texts or ints, else by their names."""
    values = [each.value for each in kind]
    by_value = issubclass(kind, enum.Flag) or all(type(each) in (str, int) for each in values)
    form.is_text = by_value and all(type(each) is str for each in values) and bool(values)

    def dump(value: Any, path: str) -> Any:
        if type(value) is not kind and not isinstance(value, kind):
            _expect(form.name, value, path)
        return value.value if by_value else value.name

    def load(value: Any, path: str) -> Any:
        try:
            return kind(value) if by_value else kind[value]
        except (KeyError, ValueError, TypeError) as error:
            raise TypeError(f"{path}: {value!r:.60} is no {form.name}") from error

    form.dump, form.load = dump, load
    form.is_text = form.is_text or not by_value
    form.accepts = lambda value: isinstance(value, kind)


# --- libraries ------------------------------------------------------------------------------------


def _is_pydantic(kind: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def _fill_pydantic(form: _Form, kind: Any) -> None:
    if not hasattr(kind, "model_validate_json"):
        raise UnknownTypeError(f"{form.name} is a model of pydantic 1; pydantic 2 is needed")
    import json

    # By the names of the fields: an alias for reading need not be the one for writing.
    by_name = "by_name" in inspect.signature(kind.model_validate_json).parameters
    reading = {"by_alias": False, "by_name": True} if by_name else {}

    def dump(value: Any, path: str) -> Any:
        if type(value) is not kind:
            _expect(form.name, value, path)
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
            path = f"{path}[{part}]" if isinstance(part, int) else _member(path, part)
        return f"{path}: {name} refuses it: {first['msg']}"
    except Exception:  # no ValidationError
        return f"{path}: {name} refuses it: {error}"


def _check_same(name: str, value: object, again: object, path: str) -> None:
    """See that nothing is lost that a library leaves out, such as a secret or a private field."""
    if again != value:
        _refuse(path, f"{name} would not come back the same; {again!r:.200} is what would come")


def _is_msgspec(kind: type) -> bool:
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and issubclass(kind, msgspec.Struct)


def _fill_msgspec(form: _Form, kind: type) -> None:
    import json

    msgspec: Any = sys.modules["msgspec"]
    decoder = msgspec.json.Decoder(kind)

    def dump(value: Any, path: str) -> Any:
        if type(value) is not kind:
            _expect(form.name, value, path)
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
