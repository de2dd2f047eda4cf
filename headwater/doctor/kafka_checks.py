"""What Kafka must be like: it keeps what it acknowledged, and keeps it for those who read later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Final

from headwater.doctor.facts import KafkaFacts
from headwater.doctor.findings import Check, Finding, Verdict, check
from headwater.kafka import FETCH_VERSION_OF_3_5, RECORD_BYTES_MAX, PartitionFacts, TopicFacts

REPLICAS_WANTED: Final = 3
IN_SYNC_WANTED: Final = 2
NAMED_MAX: Final = 8
"""Partitions or brokers named in one finding."""
_NEW: Final = "topics still to be made"


@check("kafka-version", expected="Kafka 3.5 to 4.x")
def version(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    newest = facts.cluster.fetch_version
    if newest < FETCH_VERSION_OF_3_5:
        yield verdict.failure(
            f"older than 3.5 (fetch requests up to version {newest})",
            cost="Headwater was not tested with it; the fence that shuts out a relay's predecessor depends on how brokers treat epochs.",
            remedy="Upgrade every broker to Kafka 3.5 or newer.",
        )
    else:
        yield verdict.ok("3.5 or newer")


@check("kafka-addresses", expected="several addresses where there are several brokers")
def addresses(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    brokers = len(facts.cluster.broker_ids)
    if len(facts.bootstrap) < min(brokers, IN_SYNC_WANTED):
        yield verdict.note(
            f"one address for {brokers} brokers",
            cost="A process that starts while that broker is away finds no cluster, though the others are there.",
            remedy="HEADWATER_KAFKA=host:port,host:port with at least two brokers.",
        )
    else:
        yield verdict.ok(f"{len(facts.bootstrap)} for {brokers} brokers")


@check("kafka-encryption", expected="TLS to every broker on another machine")
def encryption(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    far = [address for address in facts.bootstrap if not _is_loopback(address)]
    if facts.is_encrypted:
        yield verdict.ok("TLS")
    elif not far:
        yield verdict.ok("no TLS, and none of the addresses leaves this machine")
    else:
        yield verdict.warning(
            f"no TLS to {', '.join(far[:NAMED_MAX])}{' …' if len(far) > NAMED_MAX else ''}",
            cost="Whoever is on the way reads and changes events, and learns the password of a login by SASL/PLAIN.",
            remedy="HEADWATER_KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL, and kafka_ssl_cafile where the authority is your own (docs/configuration.md).",
        )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@check("replication-factor", expected=f"{REPLICAS_WANTED} replicas of each topic")
def replication_factor(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    brokers = len(facts.cluster.broker_ids)
    counts = {f"topic {topic.name}": topic.replication_factor for topic in facts.cluster.topics}
    new = _new_replication_factor(facts)
    if new is not None:
        counts[_NEW] = new
    fine = True
    for what, count in counts.items():
        if what == _NEW and count > brokers:
            fine = False
            # Brokers that have replicas and are not there will come back; the topics that exist do without them.
            known = {broker for topic in facts.cluster.topics for partition in topic.partitions for broker in partition.replicas}
            judge = verdict.failure if count > len(known.union(facts.cluster.broker_ids)) else verdict.warning
            yield judge(
                f"{what}: {count} replicas, and {brokers} brokers are there",
                cost="Kafka refuses to make the topic: the relay stops at the first event of a new category.",
                remedy=f"Start more brokers, or set HEADWATER_TOPIC_REPLICATION_FACTOR={brokers}.",
            )
        elif count < REPLICAS_WANTED:
            fine = False
            yield verdict.warning(
                f"{what}: {count} of {brokers} brokers",
                cost="While one broker is away, its partitions are, too, and their handlers wait. "
                "If its disk is lost, the relay sends again from the log, and consumers have to be told that their offsets are gone."
                if count == 1
                else "With two replicas, either a single broker away stops writes, or a record can be acknowledged by one broker alone.",
                remedy=_replication_remedy(what, brokers),
            )
    if fine:
        yield verdict.ok(f"at least {min(counts.values())}" if counts else "no topic yet")


def _replication_remedy(what: str, brokers: int) -> str:
    first = f"Run {REPLICAS_WANTED} brokers, then " if brokers < REPLICAS_WANTED else ""
    if what == _NEW:
        return f"{first}HEADWATER_TOPIC_REPLICATION_FACTOR={REPLICAS_WANTED}"
    return f"{first}kafka-reassign-partitions.sh with {REPLICAS_WANTED} replicas for each partition."


@check("min-insync-replicas", expected=f"min.insync.replicas of at least {IN_SYNC_WANTED}, and below the number of replicas")
def min_insync_replicas(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    judged = [
        (f"topic {topic.name}", topic.settings.get("min.insync.replicas"), topic.replication_factor) for topic in facts.cluster.topics
    ]
    new = _new_replication_factor(facts)
    in_sync = facts.topic_min_insync_replicas
    of_new = facts.broker_setting("min.insync.replicas") if in_sync is None else [str(in_sync)]
    judged += [(_NEW, value, new) for value in of_new if new is not None]
    fine = True
    for what, value, replicas in judged:
        # With one replica there is nothing to wait for; `replication-factor` says so.
        if value is None or not value.isdecimal() or replicas == 1:
            continue
        if int(value) < IN_SYNC_WANTED:
            fine = False
            yield verdict.failure(
                f"{what}: {value}, with {replicas} replicas",
                cost="A record counts as acknowledged when a single broker has it: the loss of that broker takes it back. The relay sends it again from "
                "the log once it notices, and until then consumers miss it.",
                remedy=_setting_remedy(what, "min.insync.replicas", str(IN_SYNC_WANTED)),
            )
        elif int(value) >= replicas:
            fine = False
            yield verdict.warning(
                f"{what}: {value}, with {replicas} replicas",
                cost="One broker away stops every write to the topic: its events wait in the log.",
                remedy=_setting_remedy(what, "min.insync.replicas", str(max(IN_SYNC_WANTED, replicas - 1)))
                if replicas > IN_SYNC_WANTED
                else _replication_remedy(what, len(facts.cluster.broker_ids)),
            )
    if fine:
        yield verdict.ok("fits the replicas")


@check("unclean-leader-election", expected="unclean.leader.election.enable=false")
def unclean_leader_election(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    found = _with_value(facts, "unclean.leader.election.enable", "true")
    for what in found:
        yield verdict.failure(
            f"{what}: true",
            cost="A broker that lags may become leader: acknowledged records are gone, others take their offsets, and consumers that had read them diverge.",
            remedy=_setting_remedy(what, "unclean.leader.election.enable", "false"),
        )
    if not found:
        yield verdict.ok("false")


@check("topic-retention", expected="retention.ms=-1 and retention.bytes=-1: topics keep everything")
def topic_retention(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    fine = True
    for topic in facts.cluster.topics:
        for name in ("retention.ms", "retention.bytes"):
            if (value := topic.settings.get(name, "-1")) != "-1":
                fine = False
                yield verdict.failure(
                    f"topic {topic.name}: {name}={value}{_days(name, value)}",
                    cost="What is older is deleted whether it was read or not: a handler that was away for longer never gets it, and a new service or "
                    "a rebuild from the topic lacks its beginning.",
                    remedy=_setting_remedy(f"topic {topic.name}", name, "-1"),
                )
    if fine:
        yield verdict.ok(_of_topics(facts, "keep everything"))


@check("topic-cleanup", expected="cleanup.policy=delete, without compaction")
def topic_cleanup(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    compacted = [
        topic
        for topic in facts.cluster.topics
        if "compact" in topic.settings.get("cleanup.policy", "") and topic.name not in facts.compacted_topics
    ]
    for topic in compacted:
        yield verdict.failure(
            f"topic {topic.name}: cleanup.policy={topic.settings['cleanup.policy']}",
            cost="Compaction keeps the last event of each stream and drops those before it: consumers find holes, and history is gone from the topic.",
            remedy=_setting_remedy(f"topic {topic.name}", "cleanup.policy", "delete"),
        )
    if not compacted:
        yield verdict.ok(_of_topics(facts, "none compacted"))


@check("topic-record-size", expected=f"max.message.bytes of at least {RECORD_BYTES_MAX:,}")
def topic_record_size(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    fine = True
    for topic in facts.cluster.topics:
        value = topic.settings.get("max.message.bytes", "")
        if value.isdecimal() and int(value) < RECORD_BYTES_MAX:
            fine = False
            yield verdict.failure(
                f"topic {topic.name}: {int(value):,}",
                cost="An event of 1 MiB, which the log takes, is refused by Kafka: its partition stops until this is changed.",
                remedy=_setting_remedy(f"topic {topic.name}", "max.message.bytes", str(RECORD_BYTES_MAX)),
            )
    if fine:
        yield verdict.ok(_of_topics(facts, "large enough"))


@check("partition-leaders", expected="a leader for every partition, and enough replicas in sync to write")
def partition_leaders(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    fine = True
    for topic in facts.cluster.topics:
        needed = topic.settings.get("min.insync.replicas", "1")
        stopped = [p for p in topic.partitions if p.leader < 0 or len(p.in_sync) < min(int(needed), len(p.replicas))]
        if stopped:
            fine = False
            yield verdict.failure(
                f"topic {topic.name}: partitions {_numbers(stopped)} take no writes",
                cost="Their events wait in the log, and their handlers with them; nothing is lost.",
                remedy="Start the brokers that are away; kafka-topics.sh --describe --unavailable-partitions names them.",
            )
    if fine:
        yield verdict.ok(_of_topics(facts, "all led"))


@check("replicas-in-sync", expected="every replica in sync")
def replicas_in_sync(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    fine = True
    for topic in facts.cluster.topics:
        behind = [partition for partition in topic.partitions if len(partition.in_sync) < len(partition.replicas)]
        if behind:
            fine = False
            yield verdict.warning(
                f"topic {topic.name}: partitions {_numbers(behind)} have replicas that are behind or away",
                cost="The next broker to fail takes more with it than it should: writes stop, or fewer copies than wanted are left.",
                remedy="Start the brokers that are away, or see why they do not follow.",
            )
    if fine:
        yield verdict.ok(_of_topics(facts, "all in sync"))


@check("auto-create-topics", expected="auto.create.topics.enable=false")
def auto_create_topics(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    if "true" in facts.broker_setting("auto.create.topics.enable"):
        yield verdict.warning(
            "true",
            cost="Whoever asks for a topic first makes it with the broker's defaults, such as a retention of seven days, before the relay does.",
            remedy="auto.create.topics.enable=false in server.properties of every broker, and restart them one by one.",
        )
    else:
        yield verdict.ok("false")


@check("kafka-rights", expected="settings that can be read, of every broker and topic")
def kafka_rights(verdict: Verdict, facts: KafkaFacts) -> Iterator[Finding]:
    if facts.cluster.unread:
        yield verdict.note(
            f"could not be read of {', '.join(facts.cluster.unread[:NAMED_MAX])}",
            cost="What depends on them was not checked.",
            remedy="Start the broker that does not answer; or kafka-acls.sh --add --operation DescribeConfigs for this client, on the cluster and its topics.",
        )
    else:
        yield verdict.ok("all readable")


def _new_replication_factor(facts: KafkaFacts) -> int | None:
    """Of topics that Headwater will make; None where the broker's default is not known."""
    if facts.topic_replication_factor > 0:
        return facts.topic_replication_factor
    return min((int(value) for value in facts.broker_setting("default.replication.factor") if value.isdecimal()), default=None)


def _with_value(facts: KafkaFacts, name: str, value: str) -> list[str]:
    """Which topics have this value, those that are still to be made among them."""
    found = [f"topic {topic.name}" for topic in facts.cluster.topics if topic.settings.get(name) == value]
    return found + ([_NEW] if value in facts.broker_setting(name) else [])


def _setting_remedy(what: str, name: str, value: str) -> str:
    if what == _NEW:
        return f"kafka-configs.sh --alter --entity-type brokers --entity-default --add-config {name}={value}"
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {what.removeprefix('topic ')} --add-config {name}={value}"


def _of_topics(facts: KafkaFacts, found: str) -> str:
    topics: tuple[TopicFacts, ...] = facts.cluster.topics
    return f"{len(topics)} topics, {found}" if topics else "no topic yet"


def _numbers(partitions: list[PartitionFacts]) -> str:
    return ", ".join(str(partition.number) for partition in partitions[:NAMED_MAX]) + (" …" if len(partitions) > NAMED_MAX else "")


_MILLISECONDS: Final[Mapping[str, int]] = {"days": 86_400_000, "hours": 3_600_000, "s": 1_000}


def _days(name: str, value: str) -> str:
    if name != "retention.ms" or not value.isdecimal():
        return ""
    unit = next((unit for unit, length in _MILLISECONDS.items() if int(value) >= 2 * length), "s")
    return f" ({int(value) / _MILLISECONDS[unit]:g} {unit})"


KAFKA_CHECKS: Final[tuple[Check[KafkaFacts], ...]] = (
    version,
    addresses,
    encryption,
    replication_factor,
    min_insync_replicas,
    unclean_leader_election,
    topic_retention,
    topic_cleanup,
    topic_record_size,
    partition_leaders,
    replicas_in_sync,
    auto_create_topics,
    kafka_rights,
)
