import socket
import struct
import threading
from pathlib import Path

import pytest

from headwater.embedded import EmbeddedKafka
from headwater.embedded.kafka_node import NodePorts, brokers_in_service, node_properties
from headwater.errors import UsageError


def properties(node_id: int, node_count: int, **extra: str) -> dict[str, str]:
    ports = [NodePorts(10 + index, 20 + index) for index in range(1, node_count + 1)]
    text = node_properties(node_id, ports, Path("/data"), {name.replace("_", "."): value for name, value in extra.items()})
    return dict(line.split("=", 1) for line in text.splitlines())


def test_one_node_needs_no_replicas() -> None:
    settings = properties(1, 1)
    assert settings["default.replication.factor"] == settings["min.insync.replicas"] == settings["transaction.state.log.min.isr"] == "1"


def test_three_nodes_keep_three_replicas_and_need_two() -> None:
    settings = properties(2, 3)
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:21,2@127.0.0.1:22,3@127.0.0.1:23"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:12"
    assert (settings["default.replication.factor"], settings["min.insync.replicas"]) == ("3", "2")


def test_extra_settings_win() -> None:
    assert properties(1, 1, auto_create_topics_enable="true")["auto.create.topics.enable"] == "true"


@pytest.mark.parametrize("nodes", [0, -1, 10])
def test_impossible_clusters_are_refused(nodes: int) -> None:
    with pytest.raises(UsageError, match="1 to 9 nodes"):
        EmbeddedKafka(nodes)


def metadata_answer(*nodes: tuple[int, str | None]) -> bytes:
    body = struct.pack(">ii", 1, len(nodes))
    for node_id, rack in nodes:
        body += struct.pack(">ih9si", node_id, 9, b"127.0.0.1", 9092)
        body += struct.pack(">h", -1) if rack is None else struct.pack(">h", len(rack)) + rack.encode()
    body += struct.pack(">h4sii", 4, b"ours", 1, 0)
    return struct.pack(">i", len(body)) + body


OURS = metadata_answer((1, None))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (metadata_answer((1, None), (3, "rack"), (2, None)), {1, 2, 3}),
        (metadata_answer(), set[int]()),
        (OURS[:12], set[int]()),  # cut off
        (OURS.replace(b"ours", b"else"), set[int]()),  # another's broker was quicker to take the port
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", set[int]()),  # somebody else's port
        (b"", set[int]()),
    ],
    ids=["three", "none", "cut off", "another cluster", "another protocol", "nothing"],
)
def test_brokers_in_service_are_read_from_the_answer(answer: bytes, expected: set[int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert brokers_in_service(server.getsockname()[1], "ours") == expected
        thread.join()


def test_a_closed_port_has_no_brokers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert brokers_in_service(port) == set()
