"""The AsyncAPI document: whole, resolvable, and true of the events themselves.

With HEADWATER_ASYNCAPI_SCHEMA the path of the AsyncAPI initiative's own JSON schema (3.0.0, the file without ids), the document is held against that, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator, validators
from pydantic import BaseModel
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from headwater import Context, Event, Projection, Service, on
from headwater.config import Settings
from headwater.errors import SchemaError
from headwater.kafka import Envelope, encode_envelope
from headwater.messages import LOG_START, LogPosition, NewEvent, RecordedEvent
from headwater.service import asyncapi_document


class Address(BaseModel):
    street: str
    lines: list[str] = []


class OrderPlaced(Event):
    """A customer has placed an order.

    It says no more than that.
    """

    order_id: UUID
    price: Decimal
    ship_to: Address
    bill_to: Address | None = None


class OrderCancelled(Event):
    order_id: UUID


class StockReserved(Event):
    order_id: UUID


class PaymentTaken(Event, category="billing"):
    order_id: UUID


def shop(**settings: Any) -> Service:
    service = Service("shop", settings=Settings(**settings))

    @service.on(OrderPlaced, PaymentTaken)
    async def reserve(event: OrderPlaced | PaymentTaken, context: Context) -> None:
        """Reserve stock for what was ordered or paid."""

    @service.on(OrderPlaced)
    async def greet(event: OrderPlaced) -> None: ...

    service.events.register(StockReserved)

    @service.projection
    class Orders(Projection, key="order_id"):
        count: int = 0

        @on(OrderCancelled)
        def cancelled(self, event: OrderCancelled) -> None:
            self.count += 1

    return service


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_topics_operations_and_messages() -> None:
    document = asyncapi_document(shop())
    assert document["asyncapi"] == "3.0.0"
    assert document["info"] == {"title": "shop", "version": "1.0.0"}
    assert {name: sorted(channel["messages"]) for name, channel in document["channels"].items()} == {
        "billing": ["PaymentTaken"],
        "order": ["OrderCancelled", "OrderPlaced"],
        "stock": ["StockReserved"],
    }
    operations = document["operations"]
    assert sorted(operations) == [
        "receive.shop.greet",
        "receive.shop.reserve.billing",
        "receive.shop.reserve.order",
        "send.order",
        "send.stock",
    ]
    assert operations["receive.shop.reserve.order"]["summary"] == "Reserve stock for what was ordered or paid."
    assert operations["receive.shop.reserve.order"]["bindings"]["kafka"]["groupId"]["enum"] == ["shop"]
    assert operations["send.order"]["messages"] == [{"$ref": "#/channels/order/messages/OrderCancelled"}]
    assert document["components"]["messages"]["OrderPlaced"]["summary"] == "A customer has placed an order."


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi_document(shop())
    found = list(references(document))
    assert "#/components/schemas/Address" in found
    for reference in found:
        assert isinstance(resolve(document, reference), dict)
    # A message of an operation must be one of its own channel's.
    for operation in document["operations"].values():
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_events_and_records_fit_the_schemas() -> None:
    document = asyncapi_document(shop())
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    registry = Registry().with_resource("doc:", Resource(document, DRAFT202012))

    def validator(name: str) -> Any:
        return Draft202012Validator({"$ref": f"doc:#/components/schemas/{name}"}, registry=registry)

    event = OrderPlaced(order_id=UUID(int=7), price=Decimal("1.50"), ship_to=Address(street="A"), bill_to=Address(street="B", lines=["x"]))
    data = json.loads(NewEvent.of(event).data)
    validator("OrderPlaced").validate(data)
    assert not validator("OrderPlaced").is_valid({**data, "ship_to": {"street": 3}})

    new = NewEvent.of(event)
    recorded = RecordedEvent(7, "order-1", 1, new.type, new.data, new.metadata, new.event_id, datetime.now(UTC))
    envelope = Envelope(recorded, UUID(int=1), LogPosition(1, 7), LOG_START)
    _, _, headers, _ = encode_envelope(envelope, source="/services/shop")
    told = {name: value.decode() for name, value in headers}
    validator("HeadwaterHeaders").validate(told)
    assert set(told) <= set(document["components"]["schemas"]["HeadwaterHeaders"]["properties"])


def test_values_and_tenants_show() -> None:
    service = Service("shop", values="json", settings=Settings(log_schema="acme"))

    @service.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None: ...

    document = asyncapi_document(service, api_version="2.1.0")
    assert document["defaultContentType"] == "application/json"
    assert document["info"]["version"] == "2.1.0"
    (address,) = {channel["address"] for channel in document["channels"].values()}
    assert address != "order"
    assert address.endswith("order")


def legacy() -> Service:
    service = Service("shop", settings=Settings())

    @service.on_topic("legacy.orders", OrderCancelled)
    async def cancel(event: OrderCancelled) -> None: ...

    @service.on(OrderCancelled)
    async def note(event: OrderCancelled) -> None: ...

    service.events.register(PaymentTaken)
    service.write_as("json", "billing")
    return service


def test_topics_of_other_producers_and_formats_by_category() -> None:
    document = asyncapi_document(legacy())
    messages = document["components"]["messages"]
    assert {name: message["contentType"] for name, message in messages.items()} == {
        "OrderCancelled": "application/avro",
        "OrderCancelled.legacy.orders": "application/json",
        "PaymentTaken": "application/json",
    }
    assert "headers" not in messages["OrderCancelled.legacy.orders"]
    assert messages["OrderCancelled.legacy.orders"]["payload"] == messages["OrderCancelled"]["payload"]
    assert sorted(document["operations"]) == ["receive.legacy.cancel", "receive.legacy.note", "send.billing"]
    assert document["operations"]["receive.legacy.cancel"]["messages"] == [
        {"$ref": "#/channels/legacy.orders/messages/OrderCancelled.legacy.orders"}
    ]


def test_a_category_is_received_with_whatever_is_known_of_it() -> None:
    service = Service("audit", settings=Settings())
    service.events.register(OrderPlaced)

    @service.on(category="order")
    async def keep(event: RecordedEvent) -> None:
        """Keep everything."""

    @service.on(category="parcel")
    async def weigh(event: Event) -> None: ...

    document = asyncapi_document(service)
    received = {name.rpartition(".")[2]: operation for name, operation in document["operations"].items() if name.startswith("receive.")}
    assert received["keep"]["channel"] == {"$ref": "#/channels/order"}
    assert received["keep"]["messages"] == [{"$ref": "#/channels/order/messages/OrderPlaced"}]
    assert received["keep"]["summary"] == "Keep everything."
    assert received["weigh"]["messages"] == []
    assert document["channels"]["parcel"]["messages"] == {}


def test_a_service_without_events_is_a_document_still() -> None:
    document = asyncapi_document(Service("empty"))
    assert document["channels"] == document["operations"] == {}


def test_a_field_that_json_schema_cannot_describe_is_named() -> None:
    class Opaque:
        @classmethod
        def __get_pydantic_core_schema__(cls, *_: object) -> Any:
            from pydantic_core import core_schema

            return core_schema.is_instance_schema(cls)

    class OrderWeighed(Event):
        scale: Opaque

    service = Service("shop")
    service.events.register(OrderWeighed)
    with pytest.raises(SchemaError, match="Opaque"):
        asyncapi_document(service)


@pytest.mark.skipif("HEADWATER_ASYNCAPI_SCHEMA" not in os.environ, reason="needs the AsyncAPI initiative's schema file")
def test_the_initiatives_own_schema_accepts_it() -> None:
    schema = json.loads(Path(os.environ["HEADWATER_ASYNCAPI_SCHEMA"]).read_text())
    validator = validators.validator_for(schema)(schema)
    for service in (shop(), legacy(), Service("empty")):
        assert [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(asyncapi_document(service))] == []
    broken = asyncapi_document(shop())
    broken["operations"]["send.order"]["action"] = "shout"
    assert not validator.is_valid(broken)
