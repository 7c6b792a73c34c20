"""Values of Python types as JSON values, and back."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import functools
import subprocess
import sys
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Required, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.forms import UnknownTypeError
from durable_core.codec.json import JSONCodec
from durable_core.codec.typed import result_type, return_type, value_type

T = typing.TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Shape(enum.Enum):
    LINE = (1,)
    AREA = (2,)


class Point(NamedTuple):
    x: int
    y: Decimal = Decimal(0)


class Seat(TypedDict, total=False):
    row: Required[int]
    until: dt.date


@dataclass(frozen=True)
class Item:
    name: str
    price: Decimal
    tags: tuple[str, ...] = ()


@dataclass
class Order:
    id: UUID
    items: list[Item]
    made: dt.datetime
    color: Color | None = None
    total: int = field(default=0, init=False)
    parent: Order | None = None


@dataclass
class Box(Generic[T]):
    content: T
    others: list[T]


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    when: dt.datetime
    price: Decimal
    raw: bytes = b"\xff"
    named: int = pydantic.Field(default=1, alias="aliasName")
    inner: Model | None = None


class Struct(msgspec.Struct):
    when: dt.datetime
    tags: set[str]
    raw: bytes = b"\xff"


def through_json(hint: object, value: object) -> object:
    """Return what comes back of a value that is stored as JSON text."""
    kind, codec = value_type(hint), JSONCodec()
    return kind.load(codec.decode(codec.encode(kind.dump(value))))


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal, and of the same types all the way down."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, (list, tuple)):
        return all(map(same, one, other))
    if isinstance(one, dict):
        return all(same(each, other[key]) for key, each in one.items())
    if dataclasses.is_dataclass(one):
        names = [each.name for each in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return not isinstance(one, dt.datetime) or bool(one.utcoffset() == other.utcoffset())


# Round trips

Typed = tuple[Any, st.SearchStrategy[Any]]
zones = st.integers(-1439, 1439).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
texts = st.text(st.characters(exclude_categories=["Cs"]))
HASHABLE: list[Typed] = [
    (str, texts),
    (int, st.integers()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (type(None), st.none()),
    (dt.datetime, st.datetimes() | st.datetimes(timezones=zones)),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False)),
    (bytes, st.binary()),
    *((kind, st.sampled_from(kind)) for kind in (Color, Level, Shape)),
    (Right, st.sampled_from([Right(0), Right.READ, Right.READ | Right.WRITE])),
    (Point, st.builds(Point, st.integers(), st.decimals(allow_nan=False))),
    (Literal["a", 1, True], st.sampled_from(["a", 1, True])),
    (dt.date | str, st.dates() | texts),
    (dt.datetime | dt.date | None, st.datetimes() | st.dates() | st.none()),
]
item_values = st.builds(
    Item, texts, st.decimals(allow_nan=False), st.lists(texts, max_size=2).map(tuple)
)
OTHER: list[Typed] = [
    (Any, st.sampled_from([1, "x", None, [1, {"a": [True]}]])),
    (bytearray, st.binary().map(bytearray)),
    (Item, item_values),
    (
        Order,
        st.builds(
            Order, st.uuids(), st.lists(item_values, max_size=2), st.datetimes(timezones=zones)
        ),
    ),
    (Seat, st.fixed_dictionaries({"row": st.integers()}, optional={"until": st.dates()})),
    # pydantic takes finite numbers alone.
    (
        Model,
        st.builds(
            Model,
            when=st.datetimes(),
            price=st.decimals(allow_nan=False, allow_infinity=False, places=2),
            raw=st.binary(),
        ),
    ),
    (Struct, st.builds(Struct, st.datetimes(), st.sets(texts, max_size=2), st.binary())),
]


#: Generic classes, whose parameters no type checker can know here.
LIST: Any = list
TUPLE: Any = tuple
DICT: Any = dict
SET: Any = set
FROZEN: Any = frozenset
BOX: Any = Box


def containers(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Return types that contain types, each with its values."""

    def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(values, max_size=3)

    def made(pair: Typed) -> Typed:
        hint, values = pair
        kind: Any = make_dataclass("Made", [("a", hint), ("b", LIST[hint])])
        return kind, st.builds(kind, values, some(values))

    def both(pairs: tuple[Typed, Typed]) -> Typed:
        return TUPLE[pairs[0][0], pairs[1][0]], st.tuples(pairs[0][1], pairs[1][1])

    hashable = st.sampled_from(HASHABLE)
    return st.one_of(
        inner.map(lambda pair: (LIST[pair[0]], some(pair[1]))),
        inner.map(lambda pair: (TUPLE[pair[0], ...], some(pair[1]).map(tuple))),
        inner.map(lambda pair: (pair[0] | None, st.none() | pair[1])),
        inner.map(lambda pair: (DICT[str, pair[0]], st.dictionaries(texts, pair[1], max_size=3))),
        inner.map(lambda pair: (BOX[pair[0]], st.builds(Box, pair[1], some(pair[1])))),
        inner.map(made),
        st.tuples(inner, inner).map(both),
        hashable.map(lambda pair: (SET[pair[0]], st.sets(pair[1], max_size=3))),
        hashable.map(lambda pair: (FROZEN[pair[0]], st.frozensets(pair[1], max_size=3))),
        st.tuples(hashable, inner).map(
            lambda pairs: (
                DICT[pairs[0][0], pairs[1][0]],
                st.dictionaries(pairs[0][1], pairs[1][1], max_size=3),
            )
        ),
    )


typed = st.recursive(st.sampled_from([*HASHABLE, *OTHER]), containers, max_leaves=4)


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    """A value of any type comes back equal and of the same types, through JSON text."""
    hint, values = data.draw(typed)
    value = data.draw(values)
    assert same(value, through_json(hint, value))


@given(st.data())
def test_any_json_is_loaded_or_refused(data: st.DataObject) -> None:
    """JSON that is not of the type is a TypeError with a path, and nothing else."""
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "name", "type", "value", "id"]), inner)
        ),
        max_leaves=6,
    )
    hint, _ = data.draw(typed)
    kind = value_type(hint)
    text, loaded = "$", None
    try:
        loaded = (kind.load(data.draw(json_values)),)
    except TypeError as error:
        text = str(error)
    assert text.startswith("$")
    if loaded is not None:
        kind.dump(loaded[0])


def test_nested_dataclass() -> None:
    """A class may contain itself; fields that are not of __init__ are kept."""
    inner = Order(UUID(int=1), [Item("a", Decimal("1.10"))], dt.datetime(2026, 1, 1))
    outer = Order(UUID(int=2), [], dt.datetime(2026, 1, 2, tzinfo=dt.UTC), Color.RED, parent=inner)
    outer.total = 7
    assert {
        "id": str(UUID(int=2)),
        "items": [],
        "made": "2026-01-02T00:00:00+00:00",
        "color": "red",
        "total": 7,
        "parent": {
            "id": str(UUID(int=1)),
            "items": [{"name": "a", "price": "1.10", "tags": []}],
            "made": "2026-01-01T00:00:00",
            "color": None,
            "total": 0,
            "parent": None,
        },
    } == value_type(Order).dump(outer)
    assert same(outer, through_json(Order, outer))


@pytest.mark.parametrize(
    ("hint", "value", "back"),
    [
        (Sequence[int], (1, 2), [1, 2]),
        (Mapping[str, dt.date], {"a": dt.date(2026, 1, 1)}, {"a": dt.date(2026, 1, 1)}),
        (collections.abc.Set[int], frozenset({1}), {1}),
        (list, [1, "x"], [1, "x"]),
        (tuple, (1, [2]), (1, [2])),
        (tuple[()], (), ()),
        (Annotated[dt.date, "day"], dt.date(2026, 1, 1), dt.date(2026, 1, 1)),
        (NewType("Day", dt.date), dt.date(2026, 1, 1), dt.date(2026, 1, 1)),
        (Box, Box(1, []), Box(1, [])),
        (float, 1, 1),
        (Literal[Color.RED], Color.RED, Color.RED),
        (Any | dt.date, dt.date(2026, 1, 1), dt.date(2026, 1, 1)),
    ],
    ids=str,
)
def test_types_that_stand_for_others(hint: object, value: object, back: object) -> None:
    """Abstract types come back as list, dict and set; names and notes of types change nothing."""
    assert same(back, through_json(hint, value))


# What is refused


class Own:
    """No type that anybody knows."""


@dataclass
class HasOwn:
    own: Own


@dataclass
class HasInitOnly:
    kept: int
    secret: dataclasses.InitVar[int]


@dataclass
class Unresolved:
    other: NoSuchName  # type: ignore[name-defined]  # noqa: F821


class One(pydantic.BaseModel):
    password: pydantic.SecretStr


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("it must not be negative")


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Own, "Own has no form in JSON"),
        (list[Own], "Own has no form in JSON"),
        (HasOwn, "HasOwn.own: Own has no form in JSON"),
        (HasInitOnly, "HasInitOnly.secret is no field, so nothing keeps its value"),
        (Unresolved, "an annotation of Unresolved cannot be resolved: name 'NoSuchName'"),
        (Callable[[], int], "has no form in JSON"),
        (complex, "complex has no form in JSON"),
        ("Order", "'Order' has no form in JSON"),
        (type("Item", (Item,), {}) | Item | dt.date, "has two members with the name Item"),
    ],
    ids=str,
)
def test_unknown_types(hint: object, text: str) -> None:
    """A type without a form is refused when it is asked for, with the part that is to blame."""
    with pytest.raises(UnknownTypeError, match=text):
        value_type(hint)


cyclic: list[Any] = []
cyclic.append(cyclic)


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (Item, {"name": "a"}, r"^\$: expected Item, not dict$"),
        (Item, Item("a", 1.5), r"^\$\.price: expected Decimal, not float$"),  # type: ignore[arg-type]
        (list[Item], [Item("a", Decimal(1)), None], r"^\$\[1\]: expected Item, not NoneType$"),
        (dict[str, dt.date], {"a b": 1}, r"^\$\['a b'\]: expected date, not int$"),
        (dict[int, int], {1: "x"}, r"^\$\[1\]: expected int, not str$"),
        (tuple[int, str], (1,), r"^\$: expected tuple\[int, str\], not 1 elements$"),
        (tuple[int, str], (1, 2), r"^\$\[1\]: expected str, not int$"),
        (dt.date, dt.datetime(2026, 1, 1), r"^\$: expected date, not datetime\.datetime$"),
        (dt.date | int, "x", r"^\$: expected date \| int, not str$"),
        (Color, "red", r"^\$: expected Color, not str$"),
        (Seat, {"until": dt.date(2026, 1, 1)}, r"^\$: Seat needs the key 'row'$"),
        (Seat, {"row": 1, "rwo": 2}, r"^\$: Seat has no key 'rwo'$"),
        (set[int], [1], r"^\$: expected set\[int\], not list$"),
        (Literal["a"], "b", r"^\$: expected Literal\['a'\], not 'b'$"),
        (tuple[Any, ...], (cyclic,), r"contains itself"),
        (One, One(password=pydantic.SecretStr("x")), r"One would not come back the same"),
        (Model, {"when": 1}, r"^\$: expected Model, not dict$"),
        (Struct, 1, r"^\$: expected Struct, not int$"),
    ],
    ids=str,
)
def test_values_of_another_type(hint: object, value: object, text: str) -> None:
    """A value that is not of its type is refused, with the path of the part that is not."""
    with pytest.raises(TypeError, match=text):
        JSONCodec().encode(value_type(hint).dump(value))


@pytest.mark.parametrize(
    ("hint", "stored", "text"),
    [
        (Item, {"name": "a"}, r"^\$\.price: Item needs it, and it is not there$"),
        (Item, {"name": 1, "price": "1"}, r"^\$\.name: expected str, not int$"),
        (Item, {"name": "a", "price": "x"}, r"^\$\.price: 'x' is no Decimal: "),
        (Item, [], r"^\$: expected an object for Item, not list$"),
        (dt.date, "2026-13-01", r"^\$: '2026-13-01' is no date: "),
        (dt.datetime, 1, r"^\$: expected the text of a datetime, not int$"),
        (dt.timedelta, "1 s", r"^\$: '1 s' is no timedelta: it is not like 'PT1.500000S'$"),
        (bytes, "*", r"^\$: '\*' is no bytes: "),
        (UUID, "1", r"^\$: '1' is no UUID: "),
        (Color, "green", r"^\$: 'green' is no Color$"),
        (Shape, "CUBE", r"^\$: 'CUBE' is no Shape$"),
        (Positive, {"number": -1}, r"^\$: Positive refuses it: it must not be negative$"),
        (dt.date | int, 1, r"^\$: expected an object with 'type' and 'value' for date \| int$"),
        (dt.date | int, {"type": "x", "value": 1}, r"^\$: 'x' is none of date \| int$"),
        (dict[int, int], {"1": 1}, r"^\$: expected an array of pairs for dict\[int, int\]$"),
        (dict[dt.date, int], [], r"^\$: expected an object for dict\[date, int\], not list$"),
        (tuple[int, ...], 1, r"^\$: expected an array for tuple\[int, \.\.\.\], not int$"),
        (tuple[int, int], {}, r"^\$: expected an array for tuple\[int, int\], not dict$"),
        (set[Any], [[]], r"^\$: unhashable type: 'list'$"),
        (Model, {"when": "x", "price": "1"}, r"^\$\.when: Model refuses it: "),
        (Struct, {"when": 1}, r"^\$: Struct refuses it: .* at `\$\.when`|`when`"),
    ],
    ids=str,
)
def test_stored_values_that_do_not_fit(hint: object, stored: object, text: str) -> None:
    """JSON that is not of the type (any more) is refused, with the path."""
    with pytest.raises(TypeError, match=text):
        value_type(hint).load(stored)


def test_what_a_deployment_may_change() -> None:
    """A new field with a default is filled in, and one that is gone is left out."""
    stored = {"name": "a", "price": "1", "gone": 1}
    assert Item("a", Decimal(1)) == value_type(Item).load(stored)


# Annotations of functions


def plain(cart: str) -> dict[str, list[int]]:
    raise NotImplementedError


def an_item(cart: str) -> Item:
    raise NotImplementedError


async def an_item_later(cart: NoSuchName) -> Item:  # type: ignore[name-defined]  # noqa: F821
    raise NotImplementedError


def awaitable_item() -> Awaitable[Item]:
    raise NotImplementedError


def unresolved() -> NoSuchName:  # type: ignore[name-defined]  # noqa: F821
    raise NotImplementedError


class Service:
    def item(self) -> Item:
        raise NotImplementedError

    def __call__(self) -> Item:
        raise NotImplementedError


@functools.wraps(an_item)
def wrapped(*args: Any) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (plain, None),
        (lambda: 1, None),
        (print, None),
        (str, None),
        (an_item, "Item"),
        (an_item_later, "Item"),
        (awaitable_item, "Item"),
        (wrapped, "Item"),
        (functools.partial(an_item, "x"), "Item"),
        (Service().item, "Item"),
        (Service(), "Item"),
        (Item, "Item"),
        (functools.partial(Item, "x"), "Item"),
        (unresolved, None),
        (Own, None),
    ],
    ids=[
        *("json", "lambda", "builtin", "str", "def", "async def", "awaitable", "wraps"),
        *("partial", "method", "object", "class", "partial class", "unresolved", "own"),
    ],
)
def test_result_type(fn: Callable[..., object], name: str | None) -> None:
    """The annotation of what is called decides; JSON's own types, and unknown ones, give None."""
    first, again = result_type(fn), result_type(fn)
    assert name == (None if first is None else first.name)
    assert first is again


@pytest.mark.parametrize("fn", [unresolved, Own], ids=["unresolved", "own"])
def test_return_type_says_what_is_unknown(fn: Callable[..., object]) -> None:
    """Asked for the reason, it names the annotation."""
    with pytest.raises(UnknownTypeError, match=r"NoSuchName|Own"):
        return_type(fn)


PROGRAM = """
import sys
from dataclasses import dataclass
from durable_core.codec.typed import value_type

@dataclass
class Item:
    name: str

assert value_type(Item).load({"name": "a"}) == Item("a")
print(sorted({"pydantic", "msgspec"} & set(sys.modules)))
"""


def test_libraries_are_not_imported() -> None:
    """Neither pydantic nor msgspec is loaded for an application that does not use it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ("", "[]\n") == (done.stderr, done.stdout)
