"""An Apache Kafka cluster of our own, of one node or a few, in KRaft mode."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from headwater.embedded.cache import run_folder
from headwater.embedded.kafka_files import KafkaFiles, install_kafka
from headwater.embedded.kafka_node import KafkaNode, NodePorts, new_kafka_id, node_properties
from headwater.embedded.ports import free_ports
from headwater.embedded.watchdog import Watchdog
from headwater.errors import BrokerUnavailable, UsageError
from headwater.telemetry import logger

NODES_MAX = 9
PORT_ATTEMPTS_MAX = 5
TRAINING_TIMEOUT_SECONDS = 120.0
WARM_UP_TIMEOUT_SECONDS = 20.0
_ADDRESS_IN_USE = "Address already in use"
_WARM_UP_TOPIC = "warm-up"


@dataclass(frozen=True, slots=True)
class _Training:
    files: KafkaFiles
    jvm_options: tuple[str, ...]


class EmbeddedKafka:
    """A Kafka 4.4 cluster on free loopback ports; each node is broker and controller. Its data goes with it.

    `extra` are broker settings put over the defaults, for every node. Topics are not created by being named; pass
    `{"auto.create.topics.enable": "true"}` where that is wanted. With three nodes or more, topics have three replicas of which two must be
    in sync.

    The calls block. One thread at a time may use it, except that `stop()` may come from any.
    """

    def __init__(self, nodes: int = 1, extra: Mapping[str, str] | None = None) -> None:
        if not 1 <= nodes <= NODES_MAX:
            raise UsageError(f"an embedded Kafka has 1 to {NODES_MAX} nodes, not {nodes}")
        self._node_count = nodes
        self._extra: Mapping[str, str] = dict(extra or {})
        self._training: _Training | None = None
        self._watchdog: Watchdog | None = None
        self._folder: Path | None = None
        self.nodes: list[KafkaNode] = []

    @classmethod
    def in_training(cls, files: KafkaFiles, aot_cache: Path) -> Self:
        """One node that runs from files not yet complete, and whose JVM writes its AOT cache when it ends in good order."""
        kafka = cls()
        kafka._training = _Training(files, (f"-XX:AOTCacheOutput={aot_cache}",))
        return kafka

    def start(self) -> Self:
        """Return once every broker is in service. Does nothing when it runs.

        The first time on a machine this fetches 43 MB and takes about 20 s; facts named `kafka_installing` tell.

        Raises:
            ConfigurationError: the extra is not installed, or a folder is unfit.
            BrokerUnavailable: the jars cannot be fetched, or a node did not come up; the message ends with its log.
        """
        if self._watchdog is not None:
            return self
        try:
            self._start_new()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all nodes and remove their files. Safe twice, and while it starts."""
        watchdog, self._watchdog = self._watchdog, None
        self._kill_nodes()
        if watchdog is not None:
            watchdog.close()
        self._folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """`host:port,host:port`, every node."""
        if self._watchdog is None:
            raise UsageError("the embedded Kafka has no address before start() and after stop()")
        return ",".join(node.address for node in self.nodes)

    @property
    def running(self) -> bool:
        """True while every node's process lives, be it paused."""
        return self._watchdog is not None and all(node.running for node in self.nodes)

    # -- inside --

    def _start_new(self) -> None:
        files = self._training.files if self._training else install_kafka(_template_properties, _train)
        self._folder = folder = run_folder("kafka")
        self._watchdog = watchdog = Watchdog(folder, end_signal="KILL", remove_folder=True)
        for attempts_left in reversed(range(PORT_ATTEMPTS_MAX)):
            self.nodes = self._make_nodes(files, watchdog, folder / f"attempt{PORT_ATTEMPTS_MAX - attempts_left}")
            try:
                self._launch()
                break
            except BrokerUnavailable:
                if not attempts_left or not any(_ADDRESS_IN_USE in node.log_tail() for node in self.nodes):
                    raise
                self._kill_nodes()

    def _kill_nodes(self) -> None:
        # An orderly shutdown would take seconds and save nothing that is kept.
        for process in filter(None, (node.process() for node in self.nodes)):
            process.kill()

    def _make_nodes(self, files: KafkaFiles, watchdog: Watchdog, folder: Path) -> list[KafkaNode]:
        count, cluster_id = self._node_count, new_kafka_id()
        folder.mkdir()
        numbers = free_ports(2 * count)
        ports = [NodePorts(broker, controller) for broker, controller in zip(numbers[:count], numbers[count:], strict=True)]
        return [
            KafkaNode(node_id, ports, folder / f"node{node_id}", cluster_id=cluster_id, files=files, watchdog=watchdog, extra=self._extra)
            for node_id in range(1, count + 1)
        ]

    def _launch(self) -> None:
        for node in self.nodes:
            node.launch(self._training.jvm_options if self._training else ())
        everyone = {node.node_id for node in self.nodes}
        for node in self.nodes:
            node.await_ready(lambda brokers: brokers >= everyone)


# -- the training run --------------------------------------------------------------------------------------------------


def _template_properties(data: Path) -> str:
    return node_properties(1, [NodePorts(1, 2)], data, {})


def _train(files: KafkaFiles, aot_cache: Path) -> None:
    """Let one broker do some of everything; its JVM writes the cache as it ends."""
    with EmbeddedKafka.in_training(files, aot_cache) as kafka:
        # In a thread of its own: the caller may be inside an event loop.
        thread = threading.Thread(target=_warm_up, args=(kafka.bootstrap,), name="kafka-warm-up", daemon=True)
        thread.start()
        thread.join()
        process = kafka.nodes[0].process()
        assert process is not None
        if not process.end(signal.SIGTERM, timeout_seconds=TRAINING_TIMEOUT_SECONDS) or not aot_cache.exists():
            raise BrokerUnavailable(f"the JVM wrote no AOT cache: {kafka.nodes[0].log_tail()}")


def _warm_up(bootstrap: str) -> None:
    try:
        asyncio.run(_warm_up_broker(bootstrap))
    except Exception as error:  # noqa: BLE001 - a colder cache is still a cache
        logger("embedded").debug("kafka_warm_up_failed", error=str(error) or type(error).__name__)


async def _warm_up_broker(bootstrap: str) -> None:
    # What Headwater asks of a broker: create topics, write idempotently, fence with an empty transaction, read as a group, commit.
    aiokafka: Any = importlib.import_module("aiokafka")
    admin_module: Any = importlib.import_module("aiokafka.admin")
    async with asyncio.timeout(WARM_UP_TIMEOUT_SECONDS), contextlib.AsyncExitStack() as clients:
        admin = admin_module.AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        clients.push_async_callback(admin.close)
        await admin.create_topics([admin_module.NewTopic(_WARM_UP_TOPIC, 2, 1, topic_configs={"retention.ms": "-1"})])
        await admin.describe_topics([_WARM_UP_TOPIC])
        writer = aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, transactional_id=_WARM_UP_TOPIC)
        await writer.start()
        clients.push_async_callback(writer.stop)
        async with writer.transaction():
            await writer.send_and_wait(_WARM_UP_TOPIC, b"value", key=b"key", headers=[("name", b"value")])
        reader = aiokafka.AIOKafkaConsumer(
            _WARM_UP_TOPIC, bootstrap_servers=bootstrap, group_id=_WARM_UP_TOPIC, auto_offset_reset="earliest"
        )
        await reader.start()
        clients.push_async_callback(reader.stop)
        await reader.getone()
        await reader.commit()
