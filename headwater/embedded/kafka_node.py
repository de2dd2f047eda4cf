"""One Kafka broker, which is also a controller: its configuration, its process and the question whether it works."""

from __future__ import annotations

import shutil
import socket
import struct
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater.clock import SYSTEM_CLOCK, blocking_sleep
from headwater.embedded.kafka_files import KafkaFiles, java_environment
from headwater.embedded.ports import LOOPBACK
from headwater.embedded.process import ServerProcess, log_tail
from headwater.embedded.watchdog import Watchdog
from headwater.errors import BrokerUnavailable, UsageError
from headwater.randomness import token_bytes

READY_TIMEOUT_SECONDS = 90.0
PROBE_INTERVAL_SECONDS = 0.02
PROBE_TIMEOUT_SECONDS = 1.0
RESPONSE_BYTES_MAX = 1 << 20
INTERNAL_PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class NodePorts:
    """Where one node listens: for clients and brokers, and for the controllers."""

    broker: int
    controller: int


def node_properties(node_id: int, ports: Sequence[NodePorts], data: Path, extra: Mapping[str, str]) -> str:
    """The text of `server.properties` for one node of a cluster; ids count from 1."""
    own = ports[node_id - 1]
    replicas, in_sync = min(3, len(ports)), min(2, len(ports))
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": node_id,
        "controller.quorum.voters": ",".join(f"{index}@{LOOPBACK}:{port.controller}" for index, port in enumerate(ports, 1)),
        "listeners": f"PLAINTEXT://{LOOPBACK}:{own.broker},CONTROLLER://{LOOPBACK}:{own.controller}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{own.broker}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        # A topic comes into being by being created, with the partitions and retention it needs, and never by a misspelt name.
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        **_internal_topics(replicas, in_sync),
        **_quick_small_cluster(),
        **extra,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _internal_topics(replicas: int, in_sync: int) -> dict[str, object]:
    return {
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": INTERNAL_PARTITIONS,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": INTERNAL_PARTITIONS,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": INTERNAL_PARTITIONS,
    }


def _quick_small_cluster() -> dict[str, object]:
    # The defaults suit data centres: they wait seconds before a first assignment or a new leader, and size buffers for terabytes.
    return {
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        "group.consumer.min.session.timeout.ms": 1_000,
        "group.consumer.min.heartbeat.interval.ms": 200,
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
        "controlled.shutdown.enable": "false",
        "controller.quorum.election.timeout.ms": 400,
        "controller.quorum.election.backoff.max.ms": 300,
        "controller.quorum.fetch.timeout.ms": 1_000,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
        "log.cleaner.dedupe.buffer.size": 4 << 20,
        "log.cleaner.io.buffer.size": 64 << 10,
    }


class KafkaNode:
    """One broker of an embedded cluster. It keeps its ports and its files through crashes."""

    def __init__(
        self,
        node_id: int,
        ports: Sequence[NodePorts],
        folder: Path,
        *,
        cluster_id: str,
        files: KafkaFiles,
        watchdog: Watchdog,
        extra: Mapping[str, str],
    ) -> None:
        self.node_id = node_id
        self._cluster_id = cluster_id
        self.port = ports[node_id - 1].broker
        self.folder = folder
        self._files = files
        self._watchdog = watchdog
        self._process: ServerProcess | None = None
        self._prepare(ports, extra)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def running(self) -> bool:
        """True while its process lives, be it paused."""
        return self._process is not None and not self._process.ended()

    @property
    def pid(self) -> int:
        """The process id of its JVM."""
        return self._running_process().pid

    def start(self) -> None:
        """Return once the broker takes part in its cluster again. Does nothing when it runs."""
        if not self.running:
            self.launch()
            self.await_ready(lambda brokers: self.node_id in brokers)

    def kill(self) -> None:
        """Crash it: SIGKILL. Its files stay, and `start()` goes on from them."""
        self._running_process().kill()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._running_process().pause()

    def resume(self) -> None:
        """Go on after `pause()`."""
        self._running_process().resume()

    def process(self) -> ServerProcess | None:
        """The process behind it, for whoever runs the cluster."""
        return self._process

    def launch(self, jvm_options: Sequence[str] = ()) -> None:
        """Start the process and do not wait for it."""
        configuration = self.folder / "server.properties"
        self._process = ServerProcess(
            self._watchdog,
            self._files.command("kafka.Kafka", str(configuration), log=self.folder / "kafka.log", jvm_options=jvm_options),
            folder=self.folder,
            log=self.folder / "output.log",
            environment=java_environment(),
        )

    def await_ready(self, enough: Callable[[set[int]], bool]) -> None:
        """Wait until the brokers that this one knows to be in service are enough.

        An open port is too early: until the controller has unfenced it, a broker leads nothing and holds no replicas.

        Raises:
            BrokerUnavailable: it ended, or was not ready in time; the message ends with its log.
        """
        deadline = SYSTEM_CLOCK.monotonic() + READY_TIMEOUT_SECONDS
        while not enough(brokers_in_service(self.port, self._cluster_id)):
            ended = not self.running
            if ended or SYSTEM_CLOCK.monotonic() > deadline:
                what = "ended while starting" if ended else f"was not ready after {READY_TIMEOUT_SECONDS:.0f} s"
                raise BrokerUnavailable(f"the embedded Kafka node {self.node_id} {what}; its log ends with:\n{self.log_tail()}")
            blocking_sleep(PROBE_INTERVAL_SECONDS)

    def log_tail(self) -> str:
        """The end of what it wrote."""
        return "\n".join(filter(None, (log_tail(self.folder / "output.log"), log_tail(self.folder / "kafka.log"))))

    def _prepare(self, ports: Sequence[NodePorts], extra: Mapping[str, str]) -> None:
        data = self.folder / "data"
        self.folder.mkdir()
        shutil.copytree(self._files.template, data)
        identity = {"version": 1, "cluster.id": self._cluster_id, "node.id": self.node_id, "directory.id": new_kafka_id()}
        (data / "meta.properties").write_text("".join(f"{name}={value}\n" for name, value in identity.items()), encoding="utf-8")
        (self.folder / "server.properties").write_text(node_properties(self.node_id, ports, data, extra), encoding="utf-8")

    def _running_process(self) -> ServerProcess:
        if self._process is None or self._process.ended():
            raise UsageError(f"the embedded Kafka node {self.node_id} does not run; start() it first")
        return self._process


def new_kafka_id() -> str:
    """An id of a cluster or a folder as Kafka writes them: 16 bytes in base64."""
    # The fixed first byte keeps clear of the ids that Kafka reserves and of those that begin with a dash.
    return urlsafe_b64encode(b"A" + token_bytes(15)).decode().rstrip("=")


def brokers_in_service(port: int, cluster_id: str | None = None) -> set[int]:
    """The ids of the brokers that the broker on this port lists to clients.

    Empty when it does not answer (yet), and when it belongs to another cluster than the one named: between our choice of a port and our
    bind, another one's broker may have taken it.
    """
    # A Metadata request, version 2, for no topics: size, api key 3, version, correlation id, null client id, empty array.
    request = struct.pack(">ihhihi", 14, 3, 2, 1, -1, 0)
    try:
        with socket.create_connection((LOOPBACK, port), PROBE_TIMEOUT_SECONDS) as connection, connection.makefile("rb") as answer:
            connection.sendall(request)
            (size,) = struct.unpack(">i", answer.read(4))
            found, ids = _cluster_and_brokers(answer.read(min(size, RESPONSE_BYTES_MAX)))
            return ids if cluster_id in (None, found) else set()
    except (OSError, struct.error, ValueError):
        return set()


def _cluster_and_brokers(body: bytes) -> tuple[str, set[int]]:
    _correlation_id, count = struct.unpack_from(">ii", body)
    ids: set[int] = set()
    offset = 8
    for _ in range(count):
        node_id, host_bytes = struct.unpack_from(">ih", body, offset)
        offset += 6 + host_bytes + 4  # then the port
        (rack_bytes,) = struct.unpack_from(">h", body, offset)
        offset += 2 + max(rack_bytes, 0)
        ids.add(node_id)
    (id_bytes,) = struct.unpack_from(">h", body, offset)
    return body[offset + 2 : offset + 2 + max(id_bytes, 0)].decode(), ids
