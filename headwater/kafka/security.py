"""TLS and login for every client that talks to Kafka: what cannot work is refused before the first connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

from pydantic import SecretStr

from headwater.config import KafkaProtocol, SaslMechanism, Settings
from headwater.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """How Kafka is spoken to; without arguments in the clear and without a login, as an embedded broker is.

    Certificates are checked with the host's name, and read once: a process takes up a renewed file when it starts again.

    Raises:
        ConfigurationError: what was given cannot work together, or a file cannot be used.
    """

    protocol: KafkaProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    _ssl_context: ssl.SSLContext | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        self._check_login()
        self._check_tls()
        object.__setattr__(self, "_ssl_context", self._new_ssl_context() if self.has_tls else None)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """From the settings `kafka_security_protocol`, `kafka_sasl_…` and `kafka_ssl_…`.

        Raises:
            ConfigurationError: they cannot work together, or a file cannot be used.
        """
        security = cls(
            settings.kafka_security_protocol,
            settings.kafka_sasl_mechanism,
            settings.kafka_sasl_username,
            settings.kafka_sasl_password,
            settings.kafka_ssl_cafile,
            settings.kafka_ssl_certfile,
            settings.kafka_ssl_keyfile,
        )
        if settings.kafka is None and security.protocol != "PLAINTEXT":
            _refuse(f"kafka_security_protocol is {security.protocol}, but kafka names no brokers; an embedded one speaks PLAINTEXT alone")
        return security

    @property
    def has_tls(self) -> bool:
        """Whether what is sent is encrypted, and the brokers' certificates are checked."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def has_login(self) -> bool:
        """Whether clients log in."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def client_options(self) -> dict[str, Any]:
        """What every aiokafka client takes."""
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self.has_tls:
            options["ssl_context"] = self._ssl_context
        if self.has_login:
            assert self.sasl_password is not None, "checked when it was made"
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        return options

    def _check_login(self) -> None:
        login = {
            "kafka_sasl_mechanism": self.sasl_mechanism,
            "kafka_sasl_username": self.sasl_username,
            "kafka_sasl_password": self.sasl_password and self.sasl_password.get_secret_value(),
        }
        if self.has_login and (missing := [name for name, value in login.items() if not value]):
            _refuse(f"kafka_security_protocol {self.protocol} logs in, but {' and '.join(missing)} {_are(missing)} not set")
        if not self.has_login and (useless := [name for name, value in login.items() if value is not None]):
            instead = "SASL_SSL" if self.has_tls or self.protocol == "PLAINTEXT" else "SASL_PLAINTEXT"
            _refuse(
                f"{' and '.join(useless)} {_are(useless)} set, but kafka_security_protocol {self.protocol} has no login; set it to {instead}"
            )

    def _check_tls(self) -> None:
        files = {"kafka_ssl_cafile": self.ssl_cafile, "kafka_ssl_certfile": self.ssl_certfile, "kafka_ssl_keyfile": self.ssl_keyfile}
        given = {name: path for name, path in files.items() if path is not None}
        if not self.has_tls and given:
            instead = "SASL_SSL" if self.has_login else "SSL"
            names = list(given)
            _refuse(f"{' and '.join(names)} {_are(names)} set, but kafka_security_protocol {self.protocol} has no TLS; set it to {instead}")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            _refuse("kafka_ssl_keyfile is set, but kafka_ssl_certfile, whose key it holds, is not")
        for name, path in given.items():
            if not Path(path).is_file():
                _refuse(f"{name} is {path}, where there is no file (from the working directory {Path.cwd()})")

    def _new_ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
        except (OSError, ValueError) as error:
            _refuse(f"kafka_ssl_cafile {self.ssl_cafile} cannot be used ({error}); PEM certificates are wanted", error)
        if self.ssl_certfile is not None:
            try:
                # Without a password OpenSSL would ask for it on the terminal.
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password="")
            except (OSError, ValueError) as error:
                files = f"{self.ssl_certfile} and {self.ssl_keyfile}" if self.ssl_keyfile else self.ssl_certfile
                _refuse(
                    f"kafka_ssl_certfile and its key ({files}) cannot be used ({error}); a PEM certificate with its unencrypted key is wanted",
                    error,
                )
        return context


def _are(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _refuse(message: str, cause: BaseException | None = None) -> NoReturn:
    raise ConfigurationError(message) from cause
