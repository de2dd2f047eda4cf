"""Kafka's errors, translated once."""

# aiokafka ships no types; its values get ours here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import aiokafka.errors as kafka

from headwater.errors import BrokerUnavailable, ConfigurationError, DeliveryError, HeadwaterError, RecordRefused, RelayFenced
from headwater.kafka.settings import KafkaSettings

INVALID_RECORD: Final = 87
PRODUCER_FENCED: Final = 90
"""Codes that aiokafka 0.14 has no class for."""
FENCED_CODES: Final = frozenset({kafka.InvalidProducerEpoch.errno, PRODUCER_FENCED})
REFUSED_CODES: Final = frozenset(
    {
        kafka.CorruptRecordException.errno,
        kafka.MessageSizeTooLargeError.errno,
        kafka.RecordListTooLargeError.errno,
        kafka.InvalidTimestampError.errno,
        INVALID_RECORD,
    }
)
_DENIED: Final = (
    kafka.TopicAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.SaslAuthenticationFailed,
    kafka.AuthenticationFailedError,
)


class BrokerDenied(DeliveryError):
    """Kafka does not let this client do that; whoever runs Kafka grants it."""


@contextmanager
def translate_kafka_errors(settings: KafkaSettings, doing: str) -> Generator[None]:
    """Raise what aiokafka raises inside as ours; `doing` completes "while …".

    Raises:
        BrokerUnavailable: it cannot be reached, or cannot do it now.
        BrokerDenied: it may not be done by this client.
    """
    try:
        yield
    except HeadwaterError:
        raise
    except _DENIED as error:
        raise BrokerDenied(
            f"Kafka at {settings.address} refused this client while {doing}: {_words(error)}; grant it the right, then retry"
        ) from error
    except kafka.IncompatibleBrokerVersion as error:
        raise ConfigurationError(
            f"Kafka at {settings.address} is not of a version Headwater can use (3.5 to 4.x): {_words(error)}"
        ) from error
    except TimeoutError as error:
        raise BrokerUnavailable(
            f"Kafka at {settings.address} did not answer in time while {doing}; nothing is lost, it is tried again"
        ) from error
    except (kafka.KafkaConnectionError, OSError) as error:
        raise BrokerUnavailable(
            f"Kafka at {settings.address} cannot be reached (while {doing}): {_words(error)}. Check that it runs and that HEADWATER_KAFKA "
            f"names it{_security_hint(settings)}; nothing is lost, and what waits is sent once it is back"
        ) from error
    except kafka.KafkaError as error:
        raise BrokerUnavailable(
            f"Kafka at {settings.address} failed while {doing}: {_words(error)}; nothing is lost, it is tried again"
        ) from error


def error_of_code(code: int, doing: str) -> HeadwaterError:
    """The error for a code in a response that was no success."""
    if code in FENCED_CODES:
        return RelayFenced(f"another relay has taken over (Kafka's code {code}) while {doing}; this one starts again from the lease")
    name = str(getattr(kafka.for_code(code), "message", "unknown"))
    if code in REFUSED_CODES:
        return RecordRefused(
            f"Kafka refused a batch for what it holds ({name}, code {code}) while {doing}; compare the topic's max.message.bytes"
        )
    if isinstance(kafka.for_code(code)(), _DENIED):
        return BrokerDenied(f"Kafka refused this client ({name}, code {code}) while {doing}; grant it the right, then retry")
    return BrokerUnavailable(f"Kafka answered {name} (code {code}) while {doing}; nothing is lost, it is tried again")


def _security_hint(settings: KafkaSettings) -> str:
    """Aiokafka tells no more than that it could not connect, when certificate, login or protocol were at fault; its log does."""
    security = settings.security
    if not security.has_tls and not security.has_login:
        return ", without TLS or a login (else set HEADWATER_KAFKA_SECURITY_PROTOCOL)"
    certificate = ", that its certificate is for this host and signed by an authority in kafka_ssl_cafile" if security.has_tls else ""
    login = ", that the login is right and its mechanism on offer" if security.has_login else ""
    return f", that it speaks {security.protocol} there{certificate}{login} (the log of aiokafka has the cause)"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
