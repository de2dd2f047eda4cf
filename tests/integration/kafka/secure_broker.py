"""An embedded broker with listeners beside its own: TLS with a login, TLS with client certificates, and a login in the clear."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from pydantic import SecretStr

from headwater.embedded import EmbeddedKafka, kafka_node
from headwater.embedded.ports import LOOPBACK, free_ports
from headwater.errors import BrokerUnavailable
from headwater.kafka import KafkaSecurity, KafkaSettings, check_broker
from headwater.testing import eventually
from tests.certificates import Authority

USERNAME: Final = "shop"
PASSWORD: Final = "s3cret"
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SECURITY: Final = "org.apache.kafka.common.security"
_PROTOCOLS: Final = {"secure": "SASL_SSL", "mutual": "SSL", "login": "SASL_PLAINTEXT"}
_SECONDS_MAX: Final = 30
_SCRAM_DIGESTS: Final = {1: "sha256", 2: "sha512"}
_ITERATIONS: Final = 4096
_NO_TAGS: Final = b"\x00"
_NO_ITEMS: Final = b"\x01"
_ONE_ITEM: Final = b"\x02"


@dataclass(frozen=True, slots=True)
class SecureBroker:
    """Where each listener is, and who signed the broker's certificate."""

    plain: str
    secure: str
    mutual: str
    login: str
    authority: Authority

    def sasl_ssl(self, mechanism: Any = "PLAIN", password: str = PASSWORD) -> KafkaSecurity:
        """What the listener `secure` asks for."""
        return KafkaSecurity("SASL_SSL", mechanism, USERNAME, SecretStr(password), ssl_cafile=self.authority.certificate)


@contextmanager
def secure_broker(folder: Path) -> Iterator[SecureBroker]:
    """The broker, running."""
    authority = Authority(folder / "authority")
    ports = dict(zip(_PROTOCOLS, free_ports(len(_PROTOCOLS)), strict=True))
    plain_properties = kafka_node.node_properties

    def with_listeners(*arguments: Any) -> str:
        # Of a property that is there twice the last one counts.
        text = plain_properties(*arguments)
        given = dict(line.split("=", 1) for line in text.splitlines())
        return text + "".join(f"{name}={value}\n" for name, value in _properties(given, ports, authority).items())

    with patch.object(kafka_node, "node_properties", with_listeners), EmbeddedKafka() as kafka:
        for number, digest in _SCRAM_DIGESTS.items():
            _make_scram_user(kafka.bootstrap, number, digest)
        addresses = {name: f"{LOOPBACK}:{port}" for name, port in ports.items()}
        broker = SecureBroker(kafka.bootstrap, **addresses, authority=authority)
        asyncio.run(_until_known(broker))
        yield broker


def _properties(given: dict[str, str], ports: dict[str, int], authority: Authority) -> dict[str, str]:
    server = authority.issue("broker", hosts=(LOOPBACK,))
    added = ",".join(f"{name.upper()}://{LOOPBACK}:{port}" for name, port in ports.items())
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **{name.upper(): protocol for name, protocol in _PROTOCOLS.items()}}
    properties = {
        "listeners": f"{given['listeners']},{added}",
        "advertised.listeners": f"{given['advertised.listeners']},{added}",
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": server.both,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": authority.certificate,
        "listener.name.mutual.ssl.client.auth": "required",
    }
    for listener in ("secure", "login"):
        prefix = f"listener.name.{listener}"
        properties[f"{prefix}.plain.sasl.jaas.config"] = f'{_SECURITY}.plain.PlainLoginModule required user_{USERNAME}="{PASSWORD}";'
        for mechanism in MECHANISMS[1:]:
            properties[f"{prefix}.{mechanism.lower()}.sasl.jaas.config"] = f"{_SECURITY}.scram.ScramLoginModule required;"
    return properties


def _make_scram_user(bootstrap: str, mechanism_number: int, digest: str) -> None:
    """A user for one SCRAM mechanism, by AlterUserScramCredentials version 0, which aiokafka's admin client does not know."""
    salt = b"0123456789abcdef"
    salted = hashlib.pbkdf2_hmac(digest, PASSWORD.encode(), salt, _ITERATIONS)
    user = _short(USERNAME.encode()) + struct.pack(">bi", mechanism_number, _ITERATIONS) + _short(salt) + _short(salted) + _NO_TAGS
    header = struct.pack(">hhih", 51, 0, 1, -1) + _NO_TAGS
    request = header + _NO_ITEMS + _ONE_ITEM + user + _NO_TAGS
    host, _, port = bootstrap.partition(":")
    with socket.create_connection((host, int(port)), timeout=_SECONDS_MAX) as connection, connection.makefile("rb") as answer:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", answer.read(4))
        outcome = answer.read(size)
    # Correlation id, tags, throttle time, number of users, the user's name, then the error code.
    (code,) = struct.unpack_from(">h", outcome, 4 + 1 + 4 + 1 + 1 + len(USERNAME))
    assert code == 0, outcome


def _short(content: bytes) -> bytes:
    """Bytes as Kafka's compact encoding has them, for lengths that fit into one byte."""
    assert len(content) < 127
    return bytes([len(content) + 1]) + content


async def _until_known(broker: SecureBroker) -> None:
    """Credentials are written by the controller; the broker learns of them a moment later."""
    for mechanism in MECHANISMS:
        await eventually(partial(_is_let_in, KafkaSettings.parse(broker.secure, security=broker.sasl_ssl(mechanism))), timeout=_SECONDS_MAX)


async def _is_let_in(settings: KafkaSettings) -> bool:
    try:
        await check_broker(settings)
    except BrokerUnavailable:
        return False
    return True
