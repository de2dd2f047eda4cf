"""Event classes and values that hypothesis makes up, for the property that nothing is lost."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar
from uuid import UUID

from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, Field, JsonValue, NaiveDatetime, create_model

from headwater import Event

T = TypeVar("T")


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Way(Enum):
    """Its values are no Avro names."""

    IN_TRANSIT = "in-transit"
    AT_DOOR = "at door"
    EMPTY = ""


class Level(IntEnum):
    LOW = 1
    HIGH = 2**40


class Line(BaseModel):
    """A line of an order."""

    sku: str
    price: Decimal
    at: datetime | None = None


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str
    born: date


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str
    seen: AwareDatetime


class Lookalike(BaseModel):
    name: str
    born: str


class Tree(BaseModel):
    value: Decimal
    children: list[Tree] = []
    left: Tree | None = None


class Box(BaseModel, Generic[T]):
    content: T


@dataclass(frozen=True)
class Spot:
    x: float
    y: float


text = st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=12)
offsets = st.one_of(st.just(UTC), st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))))
aware = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31), timezones=offsets)
naive = st.datetimes()
decimals = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False), st.sampled_from([Decimal("1.500"), Decimal("1E+3"), Decimal("-0.00")])
)
lines = st.builds(Line, sku=text, price=decimals, at=st.one_of(st.none(), aware, naive))
cats = st.builds(Cat, name=text, born=st.dates())
dogs = st.builds(Dog, name=text, seen=aware)
trees = st.recursive(
    st.builds(Tree, value=decimals),
    lambda inner: st.builds(Tree, value=decimals, children=st.lists(inner, max_size=2), left=inner),
    max_leaves=4,
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=5,
)
money = st.decimals(min_value=-9999, max_value=9999, places=2)
Money = Annotated[Decimal, Field(max_digits=10, decimal_places=2)]

Kind = tuple[Any, st.SearchStrategy[Any]]

LEAVES: list[Kind] = [
    (str, text),
    (bool, st.booleans()),
    (int, st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers())),
    (Annotated[int, Field(ge=-(2**100), le=2**100)], st.integers(-(2**100), 2**100)),
    (Annotated[int, Field(gt=0, lt=1000)], st.integers(1, 999)),
    (float, st.floats()),
    (Decimal, decimals),
    (Annotated[Decimal, Field(allow_inf_nan=True)], st.one_of(decimals, st.sampled_from([Decimal("NaN"), Decimal("-Infinity")]))),
    (Money, st.one_of(money, st.just(Decimal("1.5")), st.just(Decimal("-0.00")), st.just(Decimal(3)))),
    (UUID, st.uuids()),
    (datetime, st.one_of(aware, naive)),
    (AwareDatetime, aware),
    (NaiveDatetime, naive),
    (date, st.dates()),
    (time, st.one_of(st.times(), st.times(timezones=st.just(UTC)))),
    (timedelta, st.timedeltas(min_value=timedelta(days=-10_000), max_value=timedelta(days=10_000))),
    (bytes, st.binary(max_size=20)),
    (Colour, st.sampled_from(Colour)),
    (Way, st.sampled_from(Way)),
    (Level, st.sampled_from(Level)),
    ((Literal["a", 1] | None), st.sampled_from(["a", 1, None])),
    (Any, json_values),
    (JsonValue, json_values),
    (Line, lines),
    (Spot, st.builds(Spot, x=st.floats(allow_nan=False, allow_infinity=False), y=st.floats(-9, 9))),
    (Tree, trees),
    (Box[Money], money.map(lambda value: Box[Money](content=value))),
    (Annotated[Cat | Dog, Field(discriminator="kind")], st.one_of(cats, dogs)),
    (Cat | Dog | Lookalike, st.one_of(cats, dogs, st.builds(Lookalike, name=text, born=text))),
    (int | float | str, st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), text)),
    (int | datetime | date, st.one_of(st.integers(-9, 9), aware, st.dates())),
    (UUID | str | bytes, st.one_of(st.uuids(), text)),
    (bool | Money | Colour, st.one_of(st.booleans(), money, st.sampled_from(Colour))),
    (
        list[int] | list[str] | dict[str, Money],
        st.one_of(st.lists(st.integers(0, 9)), st.lists(text, max_size=2), st.dictionaries(text, money, max_size=2)),
    ),
    (Line | dict[str, int], st.one_of(lines, st.dictionaries(text, st.integers(0, 9), max_size=2))),
]


def _nested(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    shapes: list[Callable[[Kind], Kind]] = [
        lambda kind: (Optional[kind[0]], st.one_of(st.none(), kind[1])),  # type: ignore[name-defined]  # noqa: UP045 - a value, not an annotation
        lambda kind: (list[kind[0]], st.lists(kind[1], max_size=3)),  # type: ignore[name-defined]
        lambda kind: (tuple[kind[0], ...], st.lists(kind[1], max_size=3).map(tuple)),  # type: ignore[name-defined]
        lambda kind: (tuple[kind[0], str], st.tuples(kind[1], text)),  # type: ignore[name-defined]
        lambda kind: (dict[str, kind[0]], st.dictionaries(text, kind[1], max_size=3)),  # type: ignore[name-defined]
        lambda kind: (dict[int, kind[0]], st.dictionaries(st.integers(-5, 5), kind[1], max_size=3)),  # type: ignore[name-defined]
        lambda kind: (dict[date, kind[0]], st.dictionaries(st.dates(), kind[1], max_size=2)),  # type: ignore[name-defined]
    ]
    return st.tuples(st.sampled_from(shapes), inner).map(lambda drawn: drawn[0](drawn[1]))


HASHABLE: list[Kind] = [
    (set[int], st.sets(st.integers(0, 99), max_size=4)),
    (frozenset[UUID], st.frozensets(st.uuids(), max_size=3)),
    (set[Colour], st.sets(st.sampled_from(Colour))),
]

kinds: st.SearchStrategy[Kind] = st.recursive(st.sampled_from(LEAVES + HASHABLE), _nested, max_leaves=3)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """A class made up for the occasion, and an event of it."""
    drawn = draw(st.lists(kinds, min_size=1, max_size=4))
    fields: dict[str, Any] = {f"field_{number}": (kind, ...) for number, (kind, _) in enumerate(drawn)}
    made: type[Event] = create_model("ThingMade", __base__=Event, __module__=__name__, **fields)
    return made(**{f"field_{number}": draw(values) for number, (_, values) in enumerate(drawn)})


def exactly(value: Any) -> Any:
    """The value as something that is equal only when types, scales, offsets and signs are."""
    if isinstance(value, BaseModel):
        return type(value).__qualname__, {name: exactly(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Decimal):
        return "Decimal", str(value)
    if isinstance(value, float):
        return "float", "nan" if value != value else struct.pack(">d", value)
    if isinstance(value, (datetime, time)):
        return type(value).__name__, value.isoformat(), value.utcoffset()
    if isinstance(value, dict):
        return "dict", {key: exactly(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [exactly(one) for one in value]
    return type(value).__qualname__, value
