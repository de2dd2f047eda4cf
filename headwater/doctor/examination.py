"""All checks, on what could be reached; a server that does not answer is a finding, and the others are still looked at."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from headwater.config import Settings
from headwater.doctor.facts import KafkaFacts, OwnFacts, PostgresFacts
from headwater.doctor.findings import Check, FactsT, Finding, Verdict
from headwater.doctor.kafka_checks import KAFKA_CHECKS
from headwater.doctor.log_checks import LOG_CHECKS
from headwater.doctor.own_checks import OWN_CHECKS, OWN_CHECKS_WITHOUT_KAFKA, master_key_of_keys
from headwater.doctor.postgres import read_postgres
from headwater.doctor.postgres_checks import POSTGRES_CHECKS
from headwater.errors import ConfigurationError, HeadwaterError, UsageError
from headwater.kafka import KafkaSecurity, KafkaSettings, inspect_cluster, topic_of
from headwater.messages import are_events_personal
from headwater.postgres import Database, topic_prefix
from headwater.privacy import MasterKey, require_cipher
from headwater.schemas import SCHEMAS_TOPIC

REACH_SECONDS_MAX: Final = 45.0
"""How long one server may take for all its answers."""
POSTGRES_REACHED: Final = Verdict("postgres", "a server that answers at HEADWATER_POSTGRES")
KAFKA_REACHED: Final = Verdict("kafka", "a cluster that answers at HEADWATER_KAFKA")
ON_POSTGRES: Final[tuple[Check[PostgresFacts], ...]] = (*POSTGRES_CHECKS, *LOG_CHECKS, master_key_of_keys)
FINDING_NAMES: Final = (
    *(check.name for check in OWN_CHECKS),
    POSTGRES_REACHED.name,
    *(check.name for check in ON_POSTGRES),
    KAFKA_REACHED.name,
    *(check.name for check in KAFKA_CHECKS),
)
"""Every name that a finding can have, in the order in which they are made."""
_WITH_MESSAGES: Final = frozenset({POSTGRES_REACHED.name, KAFKA_REACHED.name, "unread-facts"})
"""Findings that repeat what others said."""


async def examine(
    settings: Settings,
    *,
    service_name: str | None,
    service_fault: str = "",
    is_service_named: bool = False,
    categories: Iterable[str] = (),
    uses_kafka: bool = True,
) -> list[Finding]:
    """Every finding, good ones among them. Changes nothing, and no finding holds a secret.

    Args:
        service_name: of the service whose event classes were imported, None for none; `service_fault` says why.
        is_service_named: whether somebody asked for it, so that it should be there.
        categories: of its events, for their topics.
        uses_kafka: whether Kafka feeds its handlers; else nothing of Kafka is looked at.
    """
    own, key_name = _own_facts(settings)
    own = replace(own, service_name=service_name, service_fault=service_fault, is_service_named=is_service_named)
    findings = _judged(OWN_CHECKS if uses_kafka else OWN_CHECKS_WITHOUT_KAFKA, own)
    on_postgres, topics = await _examine_postgres(settings, key_name)
    if not uses_kafka:
        return [_without_secrets(finding, settings) for finding in (*findings, *on_postgres)]
    prefix = topic_prefix(settings.log_schema)
    wanted = {*topics, SCHEMAS_TOPIC, *(topic_of(category, prefix) for category in categories)}
    findings += [*on_postgres, *await _examine_kafka(settings, wanted)]
    return [_without_secrets(finding, settings) for finding in findings]


def _judged(checks: Iterable[Check[FactsT]], facts: FactsT) -> list[Finding]:
    return [finding for check in checks for finding in check(facts)]


def _own_facts(settings: Settings) -> tuple[OwnFacts, str | None]:
    """What is known without a server, and the master key's name."""
    key_name, key_fault = None, ""
    if settings.master_key is not None:
        try:
            key_name = MasterKey.parse(settings.master_key.get_secret_value()).name
        except ConfigurationError as error:
            key_fault = str(error)
    try:
        require_cipher()
        has_cipher = True
    except UsageError:
        has_cipher = False
    facts = OwnFacts(
        service_name=None,
        is_personal=are_events_personal(),
        has_master_key=settings.master_key is not None,
        master_key_fault=key_fault,
        has_cipher=has_cipher,
        aiokafka_version=importlib.metadata.version("aiokafka"),
        aiokafka_wanted=_pinned("aiokafka"),
        topic_partitions=settings.topic_partitions,
        log_level=settings.log_level,
    )
    return facts, key_name


def _pinned(package: str) -> str:
    """The exact version that Headwater's own metadata asks for."""
    wanted = (requirement.partition("==") for requirement in importlib.metadata.requires("headwater") or ())
    return next(version.strip() for name, _, version in wanted if name.strip() == package)


async def _examine_postgres(settings: Settings, key_name: str | None) -> tuple[list[Finding], tuple[str, ...]]:
    if settings.postgres is None:
        return [_embedded(POSTGRES_REACHED, "HEADWATER_POSTGRES", "postgresql://user:password@host:port/database")], ()
    database = Database(
        settings.postgres, application_name="headwater doctor", schema=settings.log_schema, pooling=settings.postgres_pooling
    )
    try:
        async with asyncio.timeout(REACH_SECONDS_MAX):
            facts = await read_postgres(database, master_key_name=key_name)
    except (HeadwaterError, TimeoutError) as error:
        unreached = POSTGRES_REACHED.failure(
            f"{database.address}: {_words(error)}",
            cost="Services that run wait for it and append nothing meanwhile; none can start. Nothing else of it was checked.",
            remedy="Start the server, or correct HEADWATER_POSTGRES or what stands between; see docs/postgres.md for poolers.",
        )
        return [unreached], ()
    return [POSTGRES_REACHED.ok(facts.address), *_judged(ON_POSTGRES, facts)], facts.topics


async def _examine_kafka(settings: Settings, topics: Iterable[str]) -> list[Finding]:
    if settings.kafka is None:
        return [_embedded(KAFKA_REACHED, "HEADWATER_KAFKA", "host:port,host:port")]
    try:
        kafka = KafkaSettings.parse(settings.kafka, client_id="headwater-doctor", security=KafkaSecurity.of(settings))
        cluster = await inspect_cluster(kafka, topics)
    except HeadwaterError as error:
        unreached = KAFKA_REACHED.failure(
            _words(error),
            cost="Events wait in the log until it is back, and handlers with them; a service does not start without it. Nothing else of it was checked.",
            remedy="Start the cluster, or correct HEADWATER_KAFKA.",
        )
        return [unreached]
    replicas, in_sync = settings.topic_replication_factor, settings.topic_min_insync_replicas
    facts = KafkaFacts(cluster, kafka.bootstrap, replicas, in_sync, kafka.security.has_tls, frozenset({SCHEMAS_TOPIC}))
    return [KAFKA_REACHED.ok(kafka.address), *_judged(KAFKA_CHECKS, facts)]


def _embedded(verdict: Verdict, variable: str, form: str) -> Finding:
    return verdict.note(
        f"{variable} is not set: an embedded server would be started, which is for development",
        cost="What a service stores is gone when its process ends. There was no server to check.",
        remedy=f"{variable}={form}",
    )


def _words(error: BaseException) -> str:
    return str(error) or "no answer in time"


def _without_secrets(finding: Finding, settings: Settings) -> Finding:
    """The finding, should a server or a driver have repeated a secret in its message."""
    if finding.name not in _WITH_MESSAGES:
        return finding
    found = finding.found
    for secret in _secrets(settings):
        found = found.replace(secret, "***")
    return replace(finding, found=found)


def _secrets(settings: Settings) -> list[str]:
    secrets = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    if settings.postgres is not None:
        with suppress(ValueError):
            parts = urlsplit(settings.postgres)
            secrets += [parts.password or "", unquote(parts.password or "")]
            secrets += [value for name, value in parse_qsl(parts.query) if "password" in name]
    return [secret for secret in secrets if secret]
