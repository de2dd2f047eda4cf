"""Brokers that everybody reaches through proxies only, each other included: what a broker advertises is its proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from headwater.embedded import EmbeddedKafka
from headwater.embedded.kafka_files import KafkaFiles
from headwater.embedded.kafka_node import KafkaNode, NodePorts, new_kafka_id
from headwater.embedded.ports import free_ports
from headwater.embedded.watchdog import Watchdog
from tests.fault.matrix.proxies import LOOPBACK, Proxy

SETTINGS = {
    # A leader that is gone is replaced after two seconds, and a follower that does not follow is no longer waited for.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "300",
    "replica.lag.time.max.ms": "3000",
    "auto.leader.rebalance.enable": "false",
}


class _Nodes(EmbeddedKafka):
    """Nodes that advertise the ports they are given."""

    def __init__(self, advertised_ports: list[int], extra: Mapping[str, str]) -> None:
        super().__init__(len(advertised_ports), extra)
        self._advertised_ports = advertised_ports

    def _make_nodes(self, files: KafkaFiles, watchdog: Watchdog, folder: Path) -> list[KafkaNode]:
        folder.mkdir()
        count, cluster_id = self._node_count, new_kafka_id()
        numbers = free_ports(2 * count)
        ports = [NodePorts(broker, controller) for broker, controller in zip(numbers[:count], numbers[count:], strict=True)]
        return [
            KafkaNode(
                number,
                ports,
                folder / f"node{number}",
                cluster_id=cluster_id,
                files=files,
                watchdog=watchdog,
                extra={**self._extra, "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{advertised}"},
            )
            for number, advertised in enumerate(self._advertised_ports, 1)
        ]


class ProxiedKafka:
    """A cluster of one or three brokers, and the proxy before each."""

    def __init__(self, node_count: int) -> None:
        self._stack = AsyncExitStack()
        self._kafka: _Nodes | None = None
        self.node_count = node_count
        self.proxies: list[Proxy] = []

    async def __aenter__(self) -> Self:
        try:
            for number in range(self.node_count):
                proxy = Proxy(lambda number=number: self.nodes[number].port, speaks_kafka=True)
                self.proxies.append(await self._stack.enter_async_context(proxy))
            # In good order a broker of three hands its partitions over before it ends; one alone has nobody to hand them to.
            hands_over = {"controlled.shutdown.enable": "true" if self.node_count > 1 else "false"}
            self._kafka = _Nodes([proxy.port for proxy in self.proxies], SETTINGS | hands_over)
            self._stack.callback(self._kafka.stop)
            await asyncio.to_thread(self._kafka.start)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    @property
    def nodes(self) -> list[KafkaNode]:
        assert self._kafka is not None, "inside async with"
        return self._kafka.nodes

    @property
    def bootstrap(self) -> str:
        """The proxies' addresses."""
        return ",".join(f"{LOOPBACK}:{proxy.port}" for proxy in self.proxies)

    async def await_in_service(self) -> None:
        """Return once every broker takes part."""
        everyone = {node.node_id for node in self.nodes}
        for node in self.nodes:
            await asyncio.to_thread(node.await_ready, lambda brokers: brokers >= everyone)
