"""Personal fields in Avro: their own values and sealed ones under one schema, so that a sealed event travels as any other."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import Field

from headwater import Event
from headwater.kafka import AVRO_CONTENT
from headwater.messages import EventRegistry, NewEvent, RecordedEvent
from headwater.personal import Personal, personal_fields_of
from headwater.privacy import PersonalData
from headwater.schemas import AvroCodec, AvroDecoder, AvroEncoder, avro_schema
from headwater.testing import MemorySubjectKeys
from headwater.testing.memory_schemas import MemorySchemaBoard, MemorySchemas
from tests.unit.privacy.people import Address, GuestArrived, recorded
from tests.unit.schemas.made_classes import Colour, Way


class PersonDescribed(Event, category="person"):
    """One field of each kind that Avro writes its own way."""

    person_id: UUID
    text: Annotated[str, Personal("person_id")] = "Ada"
    maybe: Annotated[str | None, Personal("person_id")] = None
    yes: Annotated[bool, Personal("person_id", redacted=False)] = True
    number: Annotated[int, Personal("person_id", redacted=0)] = 7
    big: Annotated[int, Field(ge=0, le=2**80), Personal("person_id", redacted=0)] = 2**70
    ratio: Annotated[float, Personal("person_id", redacted=0.0)] = 0.5
    exact: Annotated[Decimal, Personal("person_id", redacted=Decimal(0))] = Decimal("1.10")
    price: Annotated[Decimal, Field(max_digits=8, decimal_places=2), Personal("person_id", redacted=Decimal(0))] = Decimal("1.50")
    passport: Annotated[UUID, Personal("person_id", redacted=UUID(int=0))] = UUID(int=5)
    born_on: Annotated[date, Personal("person_id", redacted=date.min)] = date(1815, 12, 10)
    seen_at: Annotated[datetime, Personal("person_id", redacted=datetime.min.replace(tzinfo=UTC))] = datetime(2020, 1, 1, tzinfo=UTC)
    wakes_at: Annotated[time, Personal("person_id", redacted=time.min)] = time(6, 30)
    sleeps: Annotated[timedelta, Personal("person_id", redacted=timedelta())] = timedelta(hours=8)
    photo: Annotated[bytes, Personal("person_id", redacted=b"")] = b"\x00\xff"
    colour: Annotated[Colour, Personal("person_id", redacted=Colour.GREEN)] = Colour.RED
    way: Annotated[Way, Personal("person_id", redacted=Way.AT_DOOR)] = Way.AT_DOOR
    words: Annotated[list[str], Personal("person_id", redacted=[])] = Field(default_factory=lambda: ["countess"])
    scores: Annotated[dict[str, float], Personal("person_id", redacted={})] = Field(default_factory=lambda: {"whist": 1.5})
    address: Annotated[Address | None, Personal("person_id", redacted=None)] = Address(street="St James", floors=(1, 2))
    anything: Annotated[Any, Personal("person_id", redacted=None)] = Field(default_factory=lambda: {"a": [1, None]})
    open_to_all: int = 1


class PersonMoved(Event, category="person"):
    """No field has a default."""

    person_id: UUID
    address: Annotated[Address, Personal("person_id", redacted=Address(street=""))]
    before: Address


EVENTS = (
    PersonDescribed(person_id=UUID(int=1)),
    PersonDescribed(person_id=UUID(int=1), maybe="headwater:sealed:1:", text="", big=0, address=None, anything=None),
    PersonMoved(person_id=UUID(int=1), address=Address(street="St James", floors=(1,)), before=Address(street="Ockham")),
    GuestArrived(guest_id="g", name="Ada", email="ada@example.org", host_note="kind"),
)


def without_null(event: Event) -> set[str]:
    """Personal fields of this event that hold something."""
    fields = personal_fields_of(type(event))
    assert fields is not None
    return {name for name in fields.by_name if json.loads(event.model_dump_json())[name] is not None}


@pytest.fixture
def personal() -> PersonalData:
    return PersonalData(MemorySubjectKeys(), EventRegistry([type(event) for event in EVENTS]))


async def sealed(personal: PersonalData, event: Event) -> RecordedEvent:
    (new,) = await personal.seal([event])
    assert isinstance(new, NewEvent)
    return recorded(new)


@pytest.mark.parametrize("event", EVENTS)
async def test_one_schema_carries_plain_and_sealed_values(event: Event, personal: PersonalData) -> None:
    codec = AvroCodec(type(event))
    stored = await sealed(personal, event)
    for text in (event.model_dump_json(), stored.data):
        assert json.loads(codec.own.decode_json(codec.encode_json(text))) == json.loads(text)
    assert codec.decode(codec.encode(event)) == event
    came = json.loads(codec.own.decode_json(codec.encode_json(stored.data)))
    assert {name for name, value in came.items() if str(value).startswith("headwater:sealed:1:") and len(str(value)) > 40} == without_null(
        event
    )


@pytest.mark.parametrize("event", EVENTS)
async def test_sealed_event_travels_as_avro_and_opens_on_the_other_side(event: Event, personal: PersonalData) -> None:
    board = MemorySchemaBoard()
    encoder, decoder = AvroEncoder(EventRegistry([type(event)]), MemorySchemas(), board), AvroDecoder(MemorySchemaBoard(board.topic))
    stored = await sealed(personal, event)
    await encoder.prepare([stored.type])
    value, content_type = encoder.encode(stored)
    assert content_type == AVRO_CONTENT
    await decoder.prepare([value])
    arrived = RecordedEvent(
        1, "person-1", 1, stored.type, decoder.decode(value, content_type), stored.metadata, stored.event_id, stored.recorded_at
    )
    (opened,) = await personal.open([arrived])
    assert EventRegistry([type(event)]).decode(opened) == event


def test_fields_without_the_mark_have_the_type_that_they_had() -> None:
    fields = {field["name"]: field for field in avro_schema(PersonMoved)["fields"]}
    assert fields["person_id"]["type"] == {"type": "string", "logicalType": "uuid"}
    record, text = fields["address"]["type"]
    assert (record["name"], text) == ("person.Address", "string")
    assert fields["before"]["type"] == "person.Address"
    assert {field["name"]: field for field in avro_schema(PersonDescribed)["fields"]}["open_to_all"] == {
        "name": "open_to_all",
        "type": "long",
        "default": 1,
    }
