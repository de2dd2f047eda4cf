"""The seam for upcasting: what was stored may change before it is decoded, wherever it comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from headwater.bus import Consumer, Context
from headwater.messages import Event, EventRegistry, NewEvent, RecordedEvent
from headwater.projections import Projection, on
from headwater.service import Service
from headwater.testing import MemoryEffects, MemoryEventStore, MemoryReadModels, MemorySource, eventually


class ParcelPosted(Event):
    grams: int


class Renamed:
    """`ParcelSent(kilograms)` of old is `ParcelPosted(grams)` now."""

    def current_type(self, stored_type: str) -> str:
        return {"ParcelSent": "ParcelPosted"}.get(stored_type, stored_type)

    def upcast(self, recorded: RecordedEvent) -> RecordedEvent:
        if recorded.type != "ParcelSent":
            return recorded
        grams = json.loads(recorded.data)["kilograms"] * 1000
        return replace(recorded, type="ParcelPosted", data=json.dumps({"grams": grams}), metadata={**recorded.metadata, "upcast": "yes"})


class Posted(Projection):
    grams: int = 0

    @on(ParcelPosted)
    def posted(self, event: ParcelPosted) -> None:
        self.grams += event.grams


OLD = NewEvent("ParcelSent", '{"kilograms": 2}')
REGISTRY = EventRegistry([ParcelPosted], upcaster=Renamed())


def test_an_event_of_the_log_is_decoded_in_its_present_shape() -> None:
    recorded = RecordedEvent(1, "parcel-1", 1, OLD.type, OLD.data, {}, UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC))
    assert REGISTRY.decode(recorded) == ParcelPosted(grams=2000)
    assert REGISTRY.decode_as(ParcelPosted, recorded) == ParcelPosted(grams=2000)
    assert REGISTRY.current_type("ParcelSent") == "ParcelPosted"
    assert EventRegistry().current_type("ParcelSent") == "ParcelSent"


async def test_a_projection_takes_events_by_their_present_type() -> None:
    store = MemoryEventStore()
    await store.append("parcel-1", [OLD, ParcelPosted(grams=5)], expected_version=0)
    row = await MemoryReadModels(store, REGISTRY).read(Posted)
    assert row is not None
    assert row.grams == 2005


async def test_a_handler_gets_events_from_a_topic_in_their_present_shape() -> None:
    service = Service("post")
    got: list[Event] = []

    @service.on(ParcelPosted)
    async def take(event: ParcelPosted, context: Context) -> None:
        assert context.recorded.type == "ParcelSent", "the context tells what was stored"
        got.append(event)

    store = MemoryEventStore()
    await store.append("parcel-1", [OLD], expected_version=0)
    effects = MemoryEffects(store)
    consumer = Consumer(group="post", subscriptions=service.subscriptions, source=MemorySource(store), effects=effects, registry=REGISTRY)
    import asyncio

    running = asyncio.create_task(consumer.run())

    async def arrived() -> bool:
        return bool(got)

    await eventually(arrived)
    running.cancel()
    await asyncio.wait([running])
    assert got == [ParcelPosted(grams=2000)]
