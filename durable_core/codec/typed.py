"""Values of Python types as JSON values, and back: what results of steps and events are made of.

A type says how its values become JSON: a ``datetime`` becomes its ISO 8601 text, a dataclass an
object with its fields, a tuple an array. From the same type and the JSON value comes an equal value
of that type. The JSON value is one of those that ``JSONCodec`` takes; ``JSONCodec`` checks what is
left to ``Any``.

Known are the types of the standard library, pydantic's models and msgspec's structs. Those two are
found where the application has imported them; they are never imported here.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from durable_core.codec.forms import (
    SIMPLE_FORMS,
    Form,
    UnknownTypeError,
    dump_fields,
    expect,
    fill_enum,
    fill_msgspec,
    fill_pydantic,
    is_msgspec,
    is_pydantic,
    load_fields,
    member,
    object_form,
    optional,
    pairs,
    plain_dict,
    plain_union,
    refuse,
    same,
    sequence,
    tagged,
)

__all__ = ["ValueType", "result_type", "return_type", "value_type"]


class ValueType:
    """One type, and how its values become JSON.

    Attributes:
        name: the type as people write it.
        is_plain: its values are JSON values already.
    """

    __slots__ = ("_form", "is_plain", "name")

    def __init__(self, form: Form) -> None:
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
        self._begun: dict[object, Form] = {}

    def form(self, hint: object, variables: Mapping[object, object] | None = None) -> Form:
        """Return the form of an annotation; ``variables`` is what stands for its type variables."""
        hint = _unwrapped(_substituted(hint, variables or {}))
        simple = SIMPLE_FORMS.get(hint) if isinstance(hint, collections.abc.Hashable) else None
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

    def _literal(self, values: tuple[Any, ...]) -> Form:
        name = f"Literal[{', '.join(map(repr, values))}]"
        if any(type(value) not in (str, int, bool, type(None)) for value in values):
            return self._union(tuple({type(value): None for value in values}), name)

        def accepts(value: Any) -> bool:
            return any(type(value) is type(each) and value == each for each in values)

        def check(value: Any, path: str) -> Any:
            if not accepts(value):
                refuse(path, f"expected {name}, not {value!r:.60}")
            return value

        is_text = all(type(value) is str for value in values)
        return Form(name, check, check, accepts, is_plain=True, is_text=is_text)

    def _union(self, hints: tuple[Any, ...], name: str | None = None) -> Form:
        members = [self.form(each) for each in hints]
        name = name or " | ".join(each.name for each in members)
        if len(members) == 1:
            return members[0]
        if all(each.is_plain for each in members):
            return plain_union(name, members)
        some = [each for each in members if each.name != "None"]
        if len(some) == 1:
            return optional(name, some[0])
        names = [each.name for each in some]
        twice = {each for each in names if names.count(each) > 1}
        if twice:
            raise UnknownTypeError(f"{name} has two members with the name {min(twice)}")
        return tagged(name, members)

    # -- containers -----------------------------------------------------------------------------

    def _tuple(self, args: tuple[Any, ...]) -> Form:
        if len(args) == 2 and args[1] is Ellipsis:
            return sequence(f"tuple[{_name_of(self, args[0])}, ...]", self.form(args[0]), tuple)
        forms = [self.form(each) for each in args]
        name = f"tuple[{', '.join(each.name for each in forms) or '()'}]"

        def convert(value: Any, path: str, which: str) -> list[Any]:
            if len(value) != len(forms):
                refuse(path, f"expected {name}, not {len(value)} elements")
            return [
                getattr(form, which)(item, f"{path}[{index}]")
                for index, (form, item) in enumerate(zip(forms, value, strict=True))
            ]

        def dump(value: Any, path: str) -> list[Any]:
            if type(value) is not tuple:
                expect(name, value, path)
            return convert(value, path, "dump")

        def load(value: Any, path: str) -> tuple[Any, ...]:
            if type(value) is not list:
                expect(f"an array for {name}", value, path)
            return tuple(convert(value, path, "load"))

        return Form(name, dump, load, lambda value: type(value) is tuple)

    def _iterable(self, kind: object, item: object) -> Form:
        make, kinds = _ITERABLES[kind]
        form = self.form(item)
        name = f"{getattr(kind, '__name__', kind)}[{form.name}]"
        return sequence(name, form, make, kinds)

    def _mapping(self, key: object, item: object) -> Form:
        keys, items = self.form(key), self.form(item)
        name = f"dict[{keys.name}, {items.name}]"
        if keys.is_plain and items.is_plain and (keys.is_text or keys.name in ("Any", "object")):
            return plain_dict(name, items)
        return object_form(name, keys, items) if keys.is_text else pairs(name, keys, items)

    # -- classes --------------------------------------------------------------------------------

    def _class(self, kind: type, args: tuple[Any, ...], hint: object) -> Form:
        begun = self._begun.get(hint)
        if begun is not None:
            return begun
        name = _shown(hint)
        form = Form(name, same, same, lambda value: type(value) is kind)
        self._begun[hint] = form
        self._fill(form, kind, args)
        return form

    def _fill(self, form: Form, kind: type, args: tuple[Any, ...]) -> None:
        """Make the form of a class what it is."""
        variables = dict(zip(getattr(kind, "__parameters__", ()), args, strict=False))
        if issubclass(kind, enum.Enum):
            fill_enum(form, kind)
        elif is_pydantic(kind):
            fill_pydantic(form, kind)
        elif is_msgspec(kind):
            fill_msgspec(form, kind)
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
    ) -> dict[str, Form]:
        hints = _resolved(kind, None, f"an annotation of {_shown(kind)}")
        forms = {}
        for name in names:
            try:
                forms[name] = self.form(hints.get(name, Any), variables)
            except UnknownTypeError as error:
                raise UnknownTypeError(f"{_shown(kind)}.{name}: {error}") from None
        return forms

    def _fill_dataclass(self, form: Form, kind: Any, variables: Mapping[object, object]) -> None:
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

        form.dump = dump_fields(form.name, kind, forms, getattr)
        form.load = load_fields(form.name, forms, required, make)

    def _fill_named_tuple(self, form: Form, kind: Any, variables: Mapping[object, object]) -> None:
        forms = self._forms_of(kind, kind._fields, variables)
        required = set(kind._fields) - kind._field_defaults.keys()
        form.dump = dump_fields(form.name, kind, forms, getattr)
        form.load = load_fields(form.name, forms, required, lambda values: kind(**values))

    def _fill_typed_dict(self, form: Form, kind: Any, variables: Mapping[object, object]) -> None:
        forms = self._forms_of(kind, kind.__annotations__, variables)
        required = _required_keys(kind)
        load = load_fields(form.name, forms, required, lambda values: values)

        def dump(value: Any, path: str) -> dict[str, Any]:
            if type(value) is not dict:
                expect(form.name, value, path)
            for name in value:
                if name not in forms:
                    refuse(path, f"{form.name} has no key {name!r}")
            for name in required - value.keys():
                refuse(path, f"{form.name} needs the key {name!r}")
            return {
                name: forms[name].dump(item, member(path, name)) for name, item in value.items()
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
