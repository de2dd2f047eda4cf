"""Spans of OpenTelemetry: where they begin, what they are linked to, and that there are none unless somebody wants them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from headwater import Context, Event, Service
from headwater.eventstore import Decider, StreamAppend
from headwater.messages import TRACEPARENT, NewEvent
from headwater.testing import memory_service
from headwater.testing.memory_bus import MemoryTopics
from headwater.tracing import is_on


class OrderPlaced(Event):
    sku: str


class StockReserved(Event):
    sku: str


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What is recorded, by a tracer provider that only this test has."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def shop() -> Service:
    service = Service("shop")

    @service.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        if event.sku == "poison":
            raise ValueError("cannot take it")
        await context.append(f"stock-{event.sku}", StockReserved(sku=event.sku))
        await context.publish(StockReserved(sku=event.sku), key=event.sku)

    return service


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def traceparent_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


async def test_a_handlers_span_is_linked_to_its_producers_and_is_no_child_of_it(spans: InMemorySpanExporter) -> None:
    service = shop()
    async with memory_service(service) as memory:
        with trace.get_tracer("application").start_as_current_span("request") as request:
            await service.store.append("order-1", [OrderPlaced(sku="chai")], expected_version=0)
        await memory.settle()
        order, stock, notice = memory.recorded
    (produced,) = named(spans, "append order")
    assert produced.kind is SpanKind.PRODUCER
    assert produced.parent is not None
    assert produced.parent.span_id == request.get_span_context().span_id
    assert order.metadata[TRACEPARENT] == traceparent_of(produced)

    (consumed,) = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    assert consumed.name.startswith("process ")
    assert consumed.name.endswith("reserve")
    assert consumed.parent is None
    assert consumed.context is not None
    assert produced.context is not None
    assert consumed.context.trace_id != produced.context.trace_id
    assert [link.context.span_id for link in consumed.links] == [produced.context.span_id]
    assert dict(consumed.attributes or {})["messaging.message.id"] == str(order.event_id)

    for recorded, name in ((stock, "append stock"), (notice, "publish StockReserved")):
        (inner,) = named(spans, name)
        assert inner.parent is not None
        assert inner.parent.span_id == consumed.context.span_id
        assert recorded.metadata[TRACEPARENT] == traceparent_of(inner)
        assert recorded.correlation_id == order.correlation_id


async def test_a_handler_of_many_events_is_linked_to_each_of_their_producers(spans: InMemorySpanExporter) -> None:
    service, taken = Service("shop"), []

    @service.on(OrderPlaced)
    async def note(events: list[OrderPlaced]) -> None:
        taken.append(len(events))

    async with memory_service(service) as memory:
        for number in range(30):
            await service.store.append(f"order-{number}", [OrderPlaced(sku="a"), OrderPlaced(sku="b")], expected_version=0)
        await memory.settle()
    produced = [span.context.span_id for span in named(spans, "append order") if span.context is not None]
    consumed = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    assert sum(taken) == 60
    assert len(consumed) == len(taken)
    # Two events of one append have one producer.
    assert sorted(link.context.span_id for span in consumed for link in span.links) == sorted(produced)


async def test_the_context_travels_in_the_header_that_other_tools_know(spans: InMemorySpanExporter) -> None:
    service = shop()
    async with memory_service(service) as memory:
        await service.store.append("order-1", [OrderPlaced(sku="chai")], expected_version=0)
        await memory.settle()
        topics = MemoryTopics(memory.store)
        await topics.relay()
        records = [record for partition in topics.partitions(["order"]) for record in topics.records(partition, 0, 10)]
    (produced,) = named(spans, "append order")
    assert dict(records[0].headers)["traceparent"] == traceparent_of(produced).encode()


async def test_a_failed_attempt_is_an_error_and_every_attempt_has_its_span(spans: InMemorySpanExporter) -> None:
    service = shop()
    async with memory_service(service) as memory:
        await service.store.append("order-1", [OrderPlaced(sku="poison")], expected_version=0)
        await memory.settle(allow_dead_letters=True)
    attempts = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    assert len(attempts) == 3
    assert {span.status.status_code for span in attempts} == {StatusCode.ERROR}
    assert {len(span.links) for span in attempts} == {1}


async def test_decisions_and_appends_to_several_streams_have_one_producer_span_each(spans: InMemorySpanExporter) -> None:
    service = Service("shop")

    def place(command: str, state: int) -> list[Event]:
        return [OrderPlaced(sku=command)]

    decider = Decider(initial_state=0, decide=place, evolve=lambda state, event: state + 1)
    async with memory_service(service) as memory:
        service.events.register(OrderPlaced)
        await service.decide("order-1", "chai", decider)
        await service.store.append_to_streams(
            [StreamAppend("order-2", [OrderPlaced(sku="a")], 0), StreamAppend("order-3", [OrderPlaced(sku="b")], 0)]
        )
        first, *others = memory.recorded
    decided, several = spans.get_finished_spans()
    assert decided.name == "decide order"
    assert first.metadata[TRACEPARENT] == traceparent_of(decided)
    assert several.name == "append several streams"
    assert {other.metadata[TRACEPARENT] for other in others} == {traceparent_of(several)}


def test_the_library_keeps_its_provider_where_the_quick_look_finds_it() -> None:
    assert hasattr(trace, "_TRACER_PROVIDER")
    assert not is_on()


async def test_without_a_tracer_provider_events_carry_what_they_were_given() -> None:
    service = shop()
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with memory_service(service) as memory:
        event = NewEvent.of(OrderPlaced(sku="chai"), metadata={TRACEPARENT: given})
        await service.store.append("order-1", [event], expected_version=0)
        await memory.settle()
        assert [recorded.metadata.get(TRACEPARENT) for recorded in memory.recorded] == [given] * 3
        await service.store.append("order-2", [OrderPlaced(sku="b")], expected_version=0)
        assert TRACEPARENT not in memory.recorded[-1].metadata


def test_everything_runs_where_nothing_of_it_is_installed() -> None:
    """In a process in which these libraries cannot be imported: the core needs none of them."""
    program = """
import sys
for name in ("opentelemetry", "prometheus_client", "starlette", "uvicorn", "watchfiles", "typer", "rich"):
    sys.modules[name] = None
import asyncio
from headwater import Event, Service
from headwater.testing import memory_service
import headwater.operations
from headwater.errors import UsageError

class OrderPlaced(Event):
    sku: str

service, seen = Service("shop"), []

@service.on(OrderPlaced)
async def note(event: OrderPlaced) -> None:
    seen.append(event.sku)

async def main() -> None:
    async with memory_service(service) as memory:
        await service.store.append("order-1", [OrderPlaced(sku="chai")], expected_version=0)
        await memory.settle()

asyncio.run(main())
try:
    headwater.operations.PrometheusMetrics()
except UsageError as error:
    print(seen, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "['chai'] metrics need the library prometheus-client; install headwater[metrics]", done.stderr
