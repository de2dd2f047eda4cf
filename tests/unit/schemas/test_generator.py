"""What the schemas say, and which classes have none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import fastavro
import pytest
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_serializer

from headwater import Event
from headwater.errors import SchemaError
from headwater.schemas import AvroCodec, avro_schema, canonical_text
from tests.unit.schemas.made_classes import Colour, Line, Tree, Way


class OrderPlaced(Event):
    """An order came in."""

    order_id: UUID
    quantity: int = 1
    note: str | None = None
    colour: Colour = Colour.RED
    way: Way = Way.AT_DOOR
    lines: list[Line] = Field(default_factory=list, description="At least one.")
    price: Annotated[Decimal, Field(max_digits=8, decimal_places=2)] = Decimal("1.50")
    tree: Tree | None = None


def field(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in schema["fields"] if one["name"] == name)


def test_record_is_named_by_type_and_category_with_fields_in_order_of_the_class() -> None:
    schema = avro_schema(OrderPlaced)
    assert (schema["type"], schema["name"], schema["doc"]) == ("record", "order.OrderPlaced", "An order came in.")
    assert [one["name"] for one in schema["fields"]] == list(OrderPlaced.model_fields)
    assert field(schema, "lines")["doc"] == "At least one."
    assert field(schema, "lines")["type"]["items"]["name"] == "order.Line"


def test_defaults_stand_where_readers_of_older_records_look_for_them() -> None:
    schema = avro_schema(OrderPlaced)
    assert field(schema, "quantity")["default"] == 1
    assert field(schema, "note") == {"name": "note", "type": ["null", "string"], "default": None}
    assert field(schema, "colour")["default"] == "red"
    assert field(schema, "lines")["default"] == []
    assert field(schema, "price")["default"] == "\x00\x96"
    assert "default" not in field(schema, "order_id")


def test_enum_whose_values_are_no_avro_names_is_a_string() -> None:
    schema = avro_schema(OrderPlaced)
    assert field(schema, "colour")["type"] == {"type": "enum", "name": "order.Colour", "symbols": ["red", "green"]}
    assert field(schema, "way")["type"] == "string"


def test_schema_is_one_that_other_avro_libraries_take() -> None:
    parsed = fastavro.parse_schema(json.loads(canonical_text(avro_schema(OrderPlaced))))
    assert parsed["name"] == "order.OrderPlaced"


def test_schema_text_is_the_same_in_another_process() -> None:
    command = (
        "from tests.unit.schemas.test_generator import OrderPlaced; from headwater.schemas import *; "
        "print(canonical_text(avro_schema(OrderPlaced)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, env={"PYTHONPATH": ".", "PYTHONHASHSEED": "7"}
    )
    assert printed.stdout.strip() == canonical_text(avro_schema(OrderPlaced))


def test_category_and_names_that_avro_does_not_allow_are_spelled() -> None:
    class Übernommen(Event, category="9.lives"):  # noqa: PLC2401 - Python allows it, Avro does not
        größe: int  # noqa: PLC2401 - the same

    codec = AvroCodec(Übernommen)
    assert codec.schema["name"] == "_9.lives._u00dc_bernommen"
    assert codec.schema["fields"] == [{"name": "gr_u00f6__u00df_e", "type": "long", "json": "größe"}]
    assert codec.decode(codec.encode(Übernommen(größe=3))) == Übernommen(größe=3)


def test_names_that_spell_alike_stay_apart() -> None:
    class ThingMade(Event):
        model_config = ConfigDict(serialize_by_alias=True)

        first: int = Field(alias="a-b")
        second: int = Field(alias="a_u002d_b")

    codec = AvroCodec(ThingMade)
    event = ThingMade.model_validate({"a-b": 1, "a_u002d_b": 2})
    assert len({one["name"] for one in codec.schema["fields"]}) == 2
    assert codec.decode(codec.encode(event)) == event


def test_class_with_no_field_has_a_schema() -> None:
    class NothingHappened(Event):
        pass

    codec = AvroCodec(NothingHappened)
    assert codec.encode(NothingHappened()) == b""
    assert codec.decode(b"") == NothingHappened()


def test_event_that_contains_its_own_kind_has_a_schema() -> None:
    codec = AvroCodec(PartAdded)
    event = PartAdded(name="a", parts=(PartAdded(name="b"),), of=PartAdded(name="c"))
    assert codec.decode(codec.encode(event)) == event


class PartAdded(Event):
    name: str
    parts: tuple[PartAdded, ...] = ()
    of: PartAdded | None = None


class Opaque:
    pass


class WithOpaque(Event):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    fine: int
    thing: Opaque


class WithFunction(Event):
    call_back: Callable[[], int]


class Renamed(BaseModel):
    inside: int = Field(alias="outside")


class WithRenamed(Event):
    renamed: Renamed


class AllByItself(Event):
    number: int

    @model_serializer
    def write(self) -> str:
        return str(self.number)


@pytest.mark.parametrize(
    ("event_class", "named"),
    [
        (WithOpaque, "WithOpaque.thing"),
        (WithFunction, "WithFunction.call_back"),
        (WithRenamed, "Renamed.inside"),
        (AllByItself, "AllByItself"),
    ],
)
def test_class_that_cannot_be_represented_is_refused_by_name(event_class: type[Event], named: str) -> None:
    with pytest.raises(SchemaError, match=named):
        AvroCodec(event_class)


def test_field_with_a_serializer_of_its_own_travels_as_what_it_writes() -> None:
    class ThingMade(Event):
        silent: Annotated[int, PlainSerializer(lambda value: [value, str(value)])]
        said: Annotated[int, PlainSerializer(str, return_type=str)]

    assert [one["type"] for one in avro_schema(ThingMade)["fields"]] == [{"type": "string", "logicalType": "json"}, "string"]
    codec = AvroCodec(ThingMade)
    text = ThingMade(silent=1, said=2).model_dump_json()
    assert json.loads(codec.own.decode_json(codec.encode_json(text))) == json.loads(text)
