"""TLS and login of Kafka: what reaches the clients, and what is refused before one is made."""

from __future__ import annotations

import dataclasses
import inspect
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from pydantic import SecretStr

from headwater.config import Settings
from headwater.errors import ConfigurationError
from headwater.kafka import KafkaSecurity, KafkaSettings
from tests.certificates import Authority

LOGIN: dict[str, Any] = {"sasl_mechanism": "PLAIN", "sasl_username": "shop", "sasl_password": SecretStr("s3cret")}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some.pem"
    path.write_text("nothing of use", encoding="utf-8")
    return str(path)


def test_without_settings_kafka_is_spoken_to_in_the_clear() -> None:
    assert KafkaSecurity().client_options() == {"security_protocol": "PLAINTEXT"}
    assert KafkaSecurity.of(Settings()) == KafkaSecurity()


def test_tls_checks_the_certificate_and_the_host(authority: Authority) -> None:
    options = KafkaSecurity("SSL", ssl_cafile=authority.certificate).client_options()
    context = options.pop("ssl_context")
    assert options == {"security_protocol": "SSL"}
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1


def test_tls_without_an_authority_trusts_the_systems() -> None:
    context = KafkaSecurity("SSL").client_options()["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_one_context_serves_all_clients(authority: Authority) -> None:
    security = KafkaSecurity("SSL", ssl_cafile=authority.certificate)
    assert security.client_options()["ssl_context"] is security.client_options()["ssl_context"]


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_login_is_passed_on(protocol: Any, mechanism: Any) -> None:
    options = KafkaSecurity(protocol, **{**LOGIN, "sasl_mechanism": mechanism}).client_options()
    assert ("ssl_context" in options) == (protocol == "SASL_SSL")
    assert options["security_protocol"] == protocol
    assert options["sasl_mechanism"] == mechanism
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("shop", "s3cret")


def test_every_client_takes_the_options(authority: Authority) -> None:
    security = KafkaSecurity("SASL_SSL", **LOGIN, ssl_cafile=authority.certificate)
    options = KafkaSettings.parse("localhost:1", security=security).client_options()
    assert options.items() >= security.client_options().items()
    for client in (AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient):
        assert set(options) <= set(inspect.signature(client).parameters), client


def test_the_clients_of_the_package_all_take_the_one_place() -> None:
    """A client made beside `client_options` would speak in the clear."""
    root = Path(inspect.getfile(KafkaSettings)).parent.parent
    made = ("AIOKafkaClient(", "AIOKafkaConsumer(", "AIOKafkaProducer(", "AIOKafkaAdminClient(")
    seen = 0
    for path in root.rglob("*.py"):
        if path.parent.name in ("embedded", "testing"):
            continue
        text = path.read_text(encoding="utf-8")
        for name in made:
            for after in text.split(name)[1:]:
                seen += 1
                assert after.strip().startswith("**"), path
                assert "client_options()" in after[:60], path
    assert seen == 8


def test_the_password_is_never_shown() -> None:
    security = KafkaSecurity("SASL_SSL", **LOGIN)
    assert "s3cret" not in repr(security)
    assert "s3cret" not in repr(KafkaSettings.parse("localhost:1", security=security))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "login over PLAINTEXT": (LOGIN, "are set, but kafka_security_protocol PLAINTEXT has no login; set it to SASL_SSL"),
    "login over SSL": ({"protocol": "SSL", **LOGIN}, "kafka_security_protocol SSL has no login; set it to SASL_SSL"),
    "mechanism alone": ({"sasl_mechanism": "PLAIN"}, "kafka_sasl_mechanism is set, but kafka_security_protocol PLAINTEXT has no login"),
    "no login": ({"protocol": "SASL_SSL"}, "kafka_sasl_mechanism and kafka_sasl_username and kafka_sasl_password are not set"),
    "no mechanism": ({"protocol": "SASL_SSL", **LOGIN, "sasl_mechanism": None}, "kafka_sasl_mechanism is not set"),
    "no password": ({"protocol": "SASL_SSL", **LOGIN, "sasl_password": None}, "kafka_sasl_password is not set"),
    "empty password": ({"protocol": "SASL_SSL", **LOGIN, "sasl_password": SecretStr("")}, "kafka_sasl_password is not set"),
    "no username": ({"protocol": "SASL_PLAINTEXT", **LOGIN, "sasl_username": None}, "kafka_sasl_username is not set"),
    "authority without TLS": ({"ssl_cafile": "FILE"}, "kafka_ssl_cafile is set, but kafka_security_protocol PLAINTEXT has no TLS; set it to SSL"),
    "certificate without TLS": ({"protocol": "SASL_PLAINTEXT", **LOGIN, "ssl_certfile": "FILE"}, "has no TLS; set it to SASL_SSL"),
    "key without certificate": ({"protocol": "SSL", "ssl_keyfile": "FILE"}, "kafka_ssl_keyfile is set, but kafka_ssl_certfile"),
    "authority not there": ({"protocol": "SSL", "ssl_cafile": "nowhere.pem"}, "kafka_ssl_cafile is nowhere.pem, where there is no file"),
    "certificate not there": ({"protocol": "SSL", "ssl_certfile": "nowhere.pem"}, "kafka_ssl_certfile is nowhere.pem"),
    "key not there": ({"protocol": "SSL", "ssl_certfile": "FILE", "ssl_keyfile": "nowhere.pem"}, "kafka_ssl_keyfile is nowhere.pem"),
    "authority is none": ({"protocol": "SSL", "ssl_cafile": "FILE"}, "kafka_ssl_cafile .* cannot be used .* PEM certificates are wanted"),
    "certificate is none": ({"protocol": "SSL", "ssl_certfile": "FILE"}, "kafka_ssl_certfile and its key .* cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(case: str, file: str) -> None:
    arguments, says = REFUSED[case]
    given = {name: file if value == "FILE" else value for name, value in arguments.items()}
    with pytest.raises(ConfigurationError, match=says) as told:
        KafkaSecurity(**given)
    assert "s3cret" not in str(told.value)


def test_another_certificates_key_is_refused(authority: Authority) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    with pytest.raises(ConfigurationError, match="kafka_ssl_certfile and its key"):
        KafkaSecurity("SSL", ssl_certfile=first.certificate, ssl_keyfile=second.key)
    assert KafkaSecurity("SSL", ssl_certfile=first.certificate, ssl_keyfile=first.key).client_options()["ssl_context"]
    assert KafkaSecurity("SSL", ssl_certfile=first.both).client_options()["ssl_context"]


def test_an_encrypted_key_is_refused_without_asking_on_the_terminal(authority: Authority) -> None:
    issued = authority.issue("locked", password=b"s3cret")
    with pytest.raises(ConfigurationError, match="unencrypted key"):
        KafkaSecurity("SSL", ssl_certfile=issued.certificate, ssl_keyfile=issued.key)


def test_an_embedded_broker_has_neither_tls_nor_login() -> None:
    with pytest.raises(ConfigurationError, match="kafka names no brokers"):
        KafkaSecurity.of(Settings(kafka=None, kafka_security_protocol="SSL"))


def test_all_settings_arrive(authority: Authority) -> None:
    issued = authority.issue("client")
    security = KafkaSecurity.of(
        Settings(
            kafka="localhost:1",
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username="shop",
            kafka_sasl_password=SecretStr("s3cret"),
            kafka_ssl_cafile=authority.certificate,
            kafka_ssl_certfile=issued.certificate,
            kafka_ssl_keyfile=issued.key,
        )
    )
    login = ("SCRAM-SHA-512", "shop", SecretStr("s3cret"))
    assert security == KafkaSecurity("SASL_SSL", *login, authority.certificate, issued.certificate, issued.key)
    assert all(getattr(security, field.name) is not None for field in dataclasses.fields(security))
