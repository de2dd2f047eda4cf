"""What is told over HTTP, without servers: health, measurements, addresses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from headwater import Event, Service
from headwater.errors import StorageUnavailable, UsageError
from headwater.kafka import Partition
from headwater.messages import LogPosition
from headwater.metrics import BATCH_SECONDS, CONSUMER_LAG_EVENTS, MESSAGES_HANDLED, RELAY_EVENTS
from headwater.operations import Health, HttpAddress, PrometheusMetrics, ServiceReports, check_health, operations_app, serve_http
from headwater.operations.pool_reports import merged
from headwater.outbox import RelayStatus
from headwater.outbox.lanes import Stop
from headwater.supervision import WorkerState
from headwater.testing import FakeClock, MemoryEventStore, memory_service

ORDER_0 = Partition("order", 0)


class OrderPlaced(Event):
    sku: str


class FakeParts:
    """An open service as health looks at it; tests break one thing."""

    def __init__(self) -> None:
        self.store: Any = MemoryEventStore()
        self.kafka = None
        self.states = [WorkerState("relay"), WorkerState("consumer")]
        self.supervisor = SimpleNamespace(states=self.states)
        self.relay_status = RelayStatus("relaying", 1)
        self.relay = SimpleNamespace(status=lambda: self.relay_status)
        self.partitions = {ORDER_0: "working"}
        self.consumer = SimpleNamespace(is_joined=True, status=self._partition_statuses)

    def _partition_statuses(self) -> list[Any]:
        return [SimpleNamespace(partition=partition, state=state, reason="a gap") for partition, state in self.partitions.items()]

    async def health(self) -> Health:
        service: Any = SimpleNamespace(name="shop", open_parts=lambda: self)
        return await check_health(service)


async def test_nothing_wrong_is_ready() -> None:
    health = await FakeParts().health()
    assert health.is_ready
    assert health.as_json()["checks"]["consumer"] == {"ok": True, "partitions": {"order/0": "working"}}


async def test_what_leaves_a_service_ready() -> None:
    """Another relay at work, a message that is tried again, no partition at all: all of it is as it should be."""
    parts = FakeParts()
    parts.relay_status = RelayStatus("waiting")
    parts.partitions = {ORDER_0: "waiting"}
    assert (await parts.health()).is_ready
    parts.partitions = {}
    assert (await parts.health()).is_ready


async def test_each_thing_that_is_wrong_is_told() -> None:
    async def identity() -> None:
        raise StorageUnavailable("nobody answers")

    def without_database(parts: FakeParts) -> None:
        parts.store = SimpleNamespace(identity=identity)

    def relay_stopped(parts: FakeParts) -> None:
        parts.relay_status = RelayStatus("stopped", last_error="LogDiverged: the log lost its tail")

    def partition_stopped(parts: FakeParts) -> None:
        parts.relay_status = RelayStatus("relaying", 1, stopped_partitions=(Stop(ORDER_0, LogPosition(1, 7), "too large", 0.0),))

    def not_joined(parts: FakeParts) -> None:
        parts.consumer.is_joined = False

    def gap(parts: FakeParts) -> None:
        parts.partitions = {ORDER_0: "stopped"}

    def unclaimed(parts: FakeParts) -> None:
        parts.partitions = {ORDER_0: "claiming"}

    def restarting(parts: FakeParts) -> None:
        parts.states[1].state, parts.states[1].last_error = "restarting", "KeyError: 'a bug'"

    for break_it, name, told in (
        (without_database, "postgres", "nobody answers"),
        (relay_stopped, "relay", "LogDiverged: the log lost its tail"),
        (partition_stopped, "relay", "order/0 stands still at 1:7: too large"),
        (not_joined, "consumer", "it is not a member of its group yet"),
        (gap, "consumer", "order/0 stands still: a gap"),
        (unclaimed, "consumer", "not claimed yet: order/0"),
        (restarting, "workers", "consumer is being started again: KeyError: 'a bug'"),
    ):
        parts = FakeParts()
        break_it(parts)
        health = await parts.health()
        assert not health.is_ready
        assert health.as_json()["wrong"] == {name: told}


async def get(reports: Any, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(operations_app(reports)), base_url="http://shop") as client:
        return await client.get(path)


async def test_a_service_in_memory_answers_as_one_on_servers_does() -> None:
    service = Service("shop", metrics=PrometheusMetrics(CollectorRegistry()))

    @service.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None: ...

    reports = ServiceReports(service)
    closed = await get(reports, "/readyz")
    assert closed.status_code == 503
    assert closed.json()["wrong"] == {"service": "it is not open"}
    assert (await get(reports, "/livez")).json() == {"alive": True}
    async with memory_service(service) as memory:
        await service.store.append("order-1", [OrderPlaced(sku="chai")], expected_version=0)
        await memory.settle()
        reports = ServiceReports(service)
        ready = await get(reports, "/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        text = (await get(reports, "/metrics")).text
        assert 'headwater_messages_handled_total{group="shop"} 1.0' in text
        assert 'headwater_consumer_partitions{group="shop",state="working"} 3.0' in text
    assert (await get(ServiceReports(Service("plain")), "/metrics")).status_code == 404


async def test_answers_are_worked_out_once_a_second_at_most() -> None:
    clock, asked = FakeClock(), []
    service: Any = SimpleNamespace(name="shop", open_parts=lambda: asked.append(True) or FakeParts())
    reports = ServiceReports(service, clock=clock)
    for _ in range(10):
        await reports.health()
    assert len(asked) == 1
    await clock.advance(2.0)
    await reports.health()
    assert len(asked) == 2


async def test_serving_takes_a_free_port_and_gives_it_back() -> None:
    reports = ServiceReports(Service("shop"))
    async with serve_http(reports, HttpAddress.parse("127.0.0.1:0")) as address:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://{address}/livez")).status_code == 200
        with pytest.raises(UsageError, match="cannot listen on"):
            async with serve_http(reports, address):
                pass
    async with serve_http(reports, address) as again:
        assert again == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", HttpAddress("127.0.0.1", 8080)),
        ("8080", HttpAddress("127.0.0.1", 8080)),
        ("0.0.0.0:80", HttpAddress("0.0.0.0", 80)),
        ("[::1]:8080", HttpAddress("::1", 8080)),
    ],
)
def test_addresses(text: str, address: HttpAddress) -> None:
    assert HttpAddress.parse(text) == address
    assert HttpAddress.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", "localhost", ":8080", "127.0.0.1:", "127.0.0.1:70000", "http://127.0.0.1:8080/"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write host:port like 127\.0\.0\.1:8080"):
        HttpAddress.parse(text)


async def test_measurements_of_several_processes_stand_beside_each_other() -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry, count in zip(registries, (3, 4), strict=True):
        metrics = PrometheusMetrics(registry)
        metrics.add(MESSAGES_HANDLED, count, "shop")
        metrics.observe(BATCH_SECONDS, 0.02, "shop")
        metrics.set(CONSUMER_LAG_EVENTS, count, "shop", "order", str(count))
        metrics.add(RELAY_EVENTS, count)
    Counter("of_the_application", "Its own.", registry=registries[0]).inc()
    families = {
        family.name: family
        for family in merged({str(number): PrometheusMetrics(each).render().decode() for number, each in enumerate(registries)})
    }
    handled = families["headwater_messages_handled"].samples
    assert [(each.labels, each.value) for each in handled if each.name.endswith("_total")] == [
        ({"process": "0", "group": "shop"}, 3.0),
        ({"process": "1", "group": "shop"}, 4.0),
    ]
    assert len([each for each in families["headwater_batch_seconds"].samples if each.name.endswith("_count")]) == 2
    assert [each.labels for each in families["of_the_application"].samples][:1] == [{"process": "0"}]


def test_a_registry_is_used_again_by_the_next_service() -> None:
    registry = CollectorRegistry()
    PrometheusMetrics(registry).add(RELAY_EVENTS, 1)
    PrometheusMetrics(registry).add(RELAY_EVENTS, 2)
    assert b"headwater_relay_events_total 3.0" in PrometheusMetrics(registry).render()


def test_a_gauge_that_is_cleared_keeps_no_old_labels() -> None:
    metrics = PrometheusMetrics(CollectorRegistry())
    metrics.set(CONSUMER_LAG_EVENTS, 3, "shop", "order", "0")
    metrics.clear(CONSUMER_LAG_EVENTS)
    metrics.set(CONSUMER_LAG_EVENTS, 5, "shop", "order", "1")
    text = metrics.render().decode()
    assert 'partition="0"' not in text
    assert 'partition="1"' in text
