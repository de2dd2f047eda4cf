"""What may be marked as personal, and what each mistake is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, computed_field, field_validator, model_serializer

from headwater.errors import UsageError
from headwater.messages import Event, NewEvent, prepare
from headwater.personal import Personal, personal_fields_of

Name = Annotated[str, Personal(subject="customer_id")]


class Person(BaseModel):
    name: Name
    customer_id: int


@dataclass
class Card:
    holder: Name


class CustomerNamed(Event, category="customer"):
    customer_id: UUID
    name: Name
    nickname: Annotated[str | None, Personal(subject="customer_id"), Field(max_length=20)] = None
    born_on: Annotated[date, Personal(subject="customer_id", redacted=date(1900, 1, 1))]
    limit: Annotated[Decimal, Personal("customer_id", redacted=0)] = Decimal(0)
    country: str = "NO"


def test_the_marked_fields_of_a_class_with_their_redactions() -> None:
    fields = personal_fields_of(CustomerNamed)
    assert fields is not None
    assert fields.owner == "CustomerNamed"
    redacted = {name: field.redacted for name, field in fields.by_name.items()}
    assert redacted == {"name": '"[forgotten]"', "nickname": '"[forgotten]"', "born_on": '"1900-01-01"', "limit": '"0"'}
    assert {field.subject_name for field in fields.by_name.values()} == {"customer_id"}


def test_a_subclass_inherits_the_marks_and_adds_its_own() -> None:
    class CustomerRenamed(CustomerNamed):
        former_name: Name

    fields = personal_fields_of(CustomerRenamed)
    assert fields is not None
    assert set(fields.by_name) == {"name", "nickname", "born_on", "limit", "former_name"}


def test_a_field_is_called_as_in_its_json() -> None:
    class Camel(BaseModel, serialize_by_alias=True):
        customer_id: Annotated[int, Field(alias="customerId")]
        full_name: Annotated[str, Field(alias="fullName"), Personal("customer_id")]

    fields = personal_fields_of(Camel)
    assert fields is not None
    assert [(f.name, f.subject_name) for f in fields.by_name.values()] == [("fullName", "customerId")]


def _define(message: str, fields: dict[str, Any], members: dict[str, Any] | None = None) -> None:
    namespace = {"__module__": __name__, "__annotations__": fields, **(members or {})}
    with pytest.raises(UsageError, match=message):
        type("CustomerMistaken", (Event,), namespace)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"customer_id": int, "name": Annotated[str, Personal("customer")]}, r"no such field \(its fields: customer_id, name\)"),
        ({"name": Annotated[str, Personal("name")]}, "is personal itself"),
        (
            {"customer_id": Annotated[int, Personal("name", redacted=0)], "name": Annotated[str, Personal("customer_id")]},
            "is personal itself",
        ),
        ({"customer_id": list[int], "name": Name}, "which is no id"),
        ({"customer_id": float, "name": Name}, "which is no id"),
        ({"customer_id": Annotated[int, Field(exclude=True)], "name": Name}, "which is no id"),
        ({"customer_id": int, "age": Annotated[int, Personal("customer_id")]}, r"does not take '\[forgotten\]'.*redacted=…"),
        ({"customer_id": int, "code": Annotated[str, Field(max_length=5), Personal("customer_id")]}, "does not take"),
        ({"customer_id": int, "age": Annotated[int, Personal("customer_id", redacted="none")]}, "redacted='none' is no value of the field"),
        ({"customer_id": int, "age": Annotated[int, Field(ge=0), Personal("customer_id", redacted=-1)]}, "redacted=-1 is no value"),
        ({"customer_id": int, "name": Annotated[str, Personal]}, "with its subject"),
        ({"customer_id": int, "name": Annotated[str, Personal("customer_id"), Personal("customer_id")]}, "write the mark once"),
        ({"customer_id": int, "name": Name | None}, "stands inside its type.*mark the whole field"),
        ({"customer_id": int, "names": list[Name]}, "stands inside its type"),
        ({"customer_id": int, "names": dict[str, tuple[Name, ...]]}, "stands inside its type"),
        ({"customer_id": int, "person": Person}, r"stands inside its type \(Person.name\)"),
        ({"customer_id": int, "person": list[Person] | None}, r"stands inside its type \(Person.name\)"),
        ({"customer_id": int, "card": Card}, "stands inside its type"),
    ],
)
def test_a_mistake_is_told_where_the_class_is_defined(fields: dict[str, Any], message: str) -> None:
    _define(message, fields)


def test_what_writes_json_beside_the_fields_is_refused() -> None:
    @computed_field  # type: ignore[prop-decorator]
    @property
    def shouted(self: Any) -> str:
        return str(self.name).upper()

    @model_serializer
    def flat(self: Any) -> dict[str, Any]:
        return {"all": self.name}

    fields = {"customer_id": int, "name": Name}
    _define("computed field 'shouted'", fields, {"shouted": shouted})
    _define("model_serializer", fields, {"flat": flat})


def test_a_validator_of_the_class_is_asked_about_the_redaction() -> None:
    def check(value: str) -> str:
        if "@" not in value:
            raise ValueError("no address")
        return value

    fields = {"customer_id": int, "email": Annotated[str, Personal("customer_id")]}
    _define(r"does not take '\[forgotten\]'.*no address", fields, {"check": field_validator("email")(check)})


def test_names_that_are_known_later_are_looked_at_later() -> None:
    class CustomerMet(Event, category="customer"):
        customer_id: int
        friend: Annotated[Later, Personal("customer_id", redacted=None)] | None = None  # type: ignore[name-defined]

    class Later(BaseModel):
        name: str

    CustomerMet.model_rebuild(_types_namespace={"Later": Later, "Annotated": Annotated, "Personal": Personal})
    with pytest.raises(UsageError, match="stands inside its type"):
        NewEvent.of(CustomerMet(customer_id=1, friend=Later(name="Ada")))


def test_a_store_that_does_not_seal_refuses_personal_data() -> None:
    """Nothing is stored unencrypted by mistake."""
    event = CustomerNamed(customer_id=UUID(int=1), name="Ada", born_on=date(1815, 12, 10))
    with pytest.raises(UsageError, match=r"would keep unencrypted; append it through service\.store"):
        prepare([event], stream_name="customer-1")
    with pytest.raises(UsageError, match="would keep unencrypted"):
        prepare([NewEvent.of(event)], stream_name="customer-1")
