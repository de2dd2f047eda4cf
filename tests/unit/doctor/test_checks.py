"""Facts in, findings out: every check both ways, without a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from headwater.doctor import FINDING_NAMES, Check, Finding, Severity, has_failure, worst_first
from headwater.doctor.examination import KAFKA_REACHED, ON_POSTGRES, POSTGRES_REACHED
from headwater.doctor.facts import (
    KafkaFacts,
    Login,
    LogRights,
    OpenTransaction,
    Overdue,
    OwnFacts,
    PostgresFacts,
    RoleSetting,
    Setting,
    Standby,
)
from headwater.doctor.kafka_checks import KAFKA_CHECKS
from headwater.doctor.own_checks import OWN_CHECKS
from headwater.kafka import FETCH_VERSION_OF_3_5, RECORD_BYTES_MAX, ClusterFacts, PartitionFacts, TopicFacts
from headwater.postgres import MigrationStatus, load_migrations

OK, NOTE, WARNING, FAILURE = Severity.OK, Severity.NOTE, Severity.WARNING, Severity.FAILURE
CHECKS: dict[str, Check[Any]] = {check.name: check for check in (*OWN_CHECKS, *ON_POSTGRES, *KAFKA_CHECKS)}

SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "synchronous_standby_names": "ANY 1 (a, b)",
    "max_connections": "100",
    "superuser_reserved_connections": "3",
    "max_locks_per_transaction": "64",
    "max_prepared_transactions": "10",
    "idle_in_transaction_session_timeout": "60000",
}
OWN = OwnFacts("shop", aiokafka_version="0.14.0", aiokafka_wanted="0.14.0")
RIGHTS = LogRights((), (), "headwater_owner", is_owner_superuser=False, writer="headwater_writer")
MIGRATED = MigrationStatus(tuple(migration.name for migration in load_migrations()), (), (), ())
POSTGRES = PostgresFacts(
    address="postgresql://shop:***@db/shop",
    database="shop",
    schema="headwater",
    version="18.1",
    major=18,
    is_standby=False,
    login=Login("shop_service", is_superuser=False, sees_all_sessions=True),
    settings={name: Setting(value) for name, value in SETTINGS.items()},
    clock_ahead_seconds=0.002,
    clock_uncertain_seconds=0.001,
    is_encrypted=True,
    is_local=False,
    pooling="session",
    has_pooler=False,
    shares_sessions=False,
    migrations=MIGRATED,
    standbys=(Standby("a", "quorum"), Standby("b", "quorum")),
    rights=RIGHTS,
    prepared=(),
    horizon_holders=(),
    idle=(),
    overdue=(),
    foreign_key_count=0,
)
TOPIC_SETTINGS = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "max.message.bytes": str(RECORD_BYTES_MAX),
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
}
BROKER_SETTINGS = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
    "auto.create.topics.enable": "false",
}
PARTITION = PartitionFacts(0, leader=1, replicas=(1, 2, 3), in_sync=(1, 2, 3))
ORDER = TopicFacts("order", (PARTITION,), TOPIC_SETTINGS)
CLUSTER = ClusterFacts((1, 2, 3), FETCH_VERSION_OF_3_5, dict.fromkeys((1, 2, 3), BROKER_SETTINGS), (ORDER,), ())
KAFKA = KafkaFacts(CLUSTER, ("a:9092", "b:9092"), compacted_topics=frozenset({"_headwater_schemas"}))


def setting(name: str, value: str, source: str = "default") -> PostgresFacts:
    return replace(POSTGRES, settings={**POSTGRES.settings, name: Setting(value, source)})


def topic(changes: Mapping[str, str] | None = None, *, name: str = "order", partition: PartitionFacts = PARTITION) -> KafkaFacts:
    return replace(
        KAFKA,
        cluster=replace(
            CLUSTER, topics=(replace(ORDER, name=name, settings={**TOPIC_SETTINGS, **(changes or {})}, partitions=(partition,)),)
        ),
    )


def brokers(changes: Mapping[str, str], *, count: int = 3, topics: tuple[TopicFacts, ...] = ()) -> KafkaFacts:
    ids = tuple(range(1, count + 1))
    return replace(
        KAFKA,
        cluster=replace(CLUSTER, broker_ids=ids, broker_settings={broker: {**BROKER_SETTINGS, **changes} for broker in ids}, topics=topics),
    )


def login(**changes: Any) -> PostgresFacts:
    return replace(POSTGRES, login=replace(POSTGRES.login, **changes))


def rights(**changes: Any) -> PostgresFacts:
    return replace(POSTGRES, rights=replace(RIGHTS, **changes))


def transaction(seconds: float | None) -> OpenTransaction:
    return OpenTransaction("session 17 of reports", seconds, "SELECT pg_terminate_backend(17)")


def commit_of(role: str | None, database: str | None, value: str = "off") -> PostgresFacts:
    return replace(POSTGRES, role_settings=(RoleSetting(role, database, value),))


ALONE = setting("synchronous_standby_names", "")

# name of the check, facts, severities of its findings, what the first says
CASES: list[tuple[str, Any, list[Severity], str]] = [
    ("service", replace(OWN, service_name=None, service_fault="nothing here"), [NOTE], "nothing here"),
    ("service", replace(OWN, service_name=None, service_fault="it raises", is_service_named=True), [FAILURE], "it raises"),
    ("aiokafka-version", replace(OWN, aiokafka_version="0.15.0"), [FAILURE], "0.15.0"),
    ("master-key", replace(OWN, is_personal=True), [WARNING], "no master key"),
    ("master-key", replace(OWN, is_personal=True, has_master_key=True), [OK], "set"),
    ("master-key", replace(OWN, has_master_key=True, master_key_fault="must be 32 bytes"), [FAILURE], "32 bytes"),
    ("cipher", replace(OWN, is_personal=True, has_cipher=False), [FAILURE], "cryptography"),
    ("cipher", replace(OWN, has_cipher=False), [OK], "not needed"),
    ("topic-partitions", replace(OWN, topic_partitions=1), [NOTE], "1"),
    ("log-level", replace(OWN, log_level="error"), [NOTE], "error"),
    ("postgres-version", replace(POSTGRES, version="14.9", major=14), [FAILURE], "14.9"),
    ("postgres-version", replace(POSTGRES, version="15.1", major=15), [OK], "15.1"),
    ("postgres-version", replace(POSTGRES, version="19beta1", major=19), [NOTE], "19beta1"),
    ("primary", replace(POSTGRES, is_standby=True), [FAILURE], "a standby"),
    ("fsync", setting("fsync", "off"), [FAILURE], "off"),
    ("full-page-writes", setting("full_page_writes", "off"), [FAILURE], "off"),
    ("synchronous-commit", setting("synchronous_commit", "off", "database"), [FAILURE], "off for this login"),
    ("synchronous-commit", setting("synchronous_commit", "local"), [FAILURE], "local for this login"),
    ("synchronous-commit", replace(ALONE, settings={**ALONE.settings, "synchronous_commit": Setting("local")}), [OK], "local"),
    ("synchronous-commit", setting("synchronous_commit", "remote_apply"), [OK], "remote_apply"),
    ("synchronous-commit", commit_of("other", None), [FAILURE], "off for role other in every database"),
    ("synchronous-commit", commit_of(None, "shop"), [FAILURE], "off for every role in database shop"),
    ("synchronous-commit", commit_of("other", None, "on"), [OK], "on"),
    # What is set for this login and not in force was overruled for it, or is older than its session.
    ("synchronous-commit", commit_of("shop_service", None), [OK], "on"),
    (
        "synchronous-commit",
        replace(setting("synchronous_commit", "off", "database"), role_settings=(RoleSetting(None, "shop", "off"),)),
        [FAILURE],
        "off for this login",
    ),
    ("standbys", replace(POSTGRES, standbys=None), [], ""),
    ("standbys", replace(ALONE, standbys=()), [NOTE], "none"),
    ("standbys", replace(ALONE, standbys=(Standby("a", "async"),)), [WARNING], "only asynchronous ones: a"),
    ("standbys", replace(POSTGRES, standbys=(Standby("c", "async"),)), [FAILURE], "none is connected"),
    ("standbys", replace(POSTGRES, standbys=()), [FAILURE], "none is connected"),
    ("standbys", replace(POSTGRES, standbys=(Standby("a", None),)), [OK], "ANY 1"),
    ("clock", replace(POSTGRES, clock_ahead_seconds=-3.0), [WARNING], "3.000 s behind"),
    ("clock", replace(POSTGRES, clock_ahead_seconds=1.2, clock_uncertain_seconds=0.3), [OK], "1.200 s ahead"),
    ("max-locks", setting("max_locks_per_transaction", "10"), [WARNING], "10, which makes some 1,100 places"),
    ("max-prepared-transactions", setting("max_prepared_transactions", "0"), [NOTE], "0"),
    ("max-connections", setting("max_connections", "20"), [WARNING], "17"),
    ("max-connections", replace(setting("max_connections", "20"), has_pooler=True), [OK], "17 behind a pooler"),
    ("migrations", replace(POSTGRES, migrations=None), [], ""),
    ("migrations", replace(POSTGRES, migrations=MigrationStatus((), load_migrations(), (), ())), [FAILURE], "no log was set up"),
    (
        "migrations",
        replace(POSTGRES, migrations=replace(MIGRATED, applied=MIGRATED.applied[:-1], pending=load_migrations()[-1:])),
        [FAILURE],
        "1 migrations are missing",
    ),
    ("migrations", replace(POSTGRES, migrations=replace(MIGRATED, unknown=("9999_contract_all",))), [FAILURE], "newer Headwater"),
    ("login-rights", replace(POSTGRES, rights=None), [], ""),
    ("login-rights", rights(missing=("EXECUTE on append_group",)), [FAILURE], "EXECUTE on append_group"),
    ("login-rights", rights(missing=("CREATE on database shop",)), [WARNING], "CREATE on database"),
    ("login-power", replace(POSTGRES, rights=None), [], ""),
    ("login-power", rights(excess=("DELETE on events",)), [WARNING], "may DELETE on events"),
    ("login-power", login(is_superuser=True), [WARNING], "is a superuser"),
    ("log-owner", replace(POSTGRES, rights=None), [], ""),
    ("log-owner", rights(owner="postgres", is_owner_superuser=True), [NOTE], "postgres is a superuser"),
    ("session-details", login(sees_all_sessions=False), [NOTE], "its own alone"),
    ("pooler", replace(POSTGRES, has_pooler=True, shares_sessions=True), [FAILURE], "one transaction only"),
    ("pooler", replace(POSTGRES, has_pooler=True), [OK], "a pooler, pooling by session"),
    ("pooler", replace(POSTGRES, has_pooler=True, shares_sessions=True, pooling="transaction"), [OK], "by transaction"),
    ("pooler", replace(POSTGRES, pooling="transaction"), [NOTE], "no pooler"),
    ("idle-timeout", setting("idle_in_transaction_session_timeout", "0"), [WARNING], "for ever"),
    ("encryption", replace(POSTGRES, is_encrypted=False), [WARNING], "no TLS"),
    ("encryption", replace(POSTGRES, is_encrypted=False, is_local=True), [OK], "within this machine"),
    ("prepared-transactions", replace(POSTGRES, prepared=None), [], ""),
    ("prepared-transactions", replace(POSTGRES, prepared=(transaction(3600), transaction(0.1))), [WARNING, NOTE], "3,600 s"),
    ("horizon", replace(POSTGRES, horizon_holders=None), [], ""),
    ("horizon", replace(POSTGRES, horizon_holders=(transaction(0.1),)), [OK], "1 in flight"),
    ("horizon", replace(POSTGRES, horizon_holders=(transaction(20), transaction(0.1))), [WARNING], "session 17"),
    ("horizon", replace(POSTGRES, horizon_holders=(transaction(61), transaction(None))), [FAILURE, FAILURE], "session 17"),
    ("idle-transactions", replace(POSTGRES, idle=None), [], ""),
    ("idle-transactions", replace(POSTGRES, idle=(transaction(600),)), [WARNING], "600 s is idle"),
    ("overdue", replace(POSTGRES, overdue=None), [], ""),
    ("overdue", replace(POSTGRES, overdue=(Overdue("message", 1, 0, 61.0),)), [WARNING], "1 message due, the first for 61 s"),
    (
        "overdue",
        replace(POSTGRES, overdue=(Overdue("deadline", 1200, 0, 3600.0), Overdue("message", 3, 2, 90.0), Overdue("schedule", 1, 0, 70.0))),
        [WARNING, WARNING, WARNING],
        "1,200 deadlines due, the first for 3,600 s",
    ),
    ("unread-facts", replace(POSTGRES, unread={"standbys": "permission denied"}), [WARNING], "standbys: permission denied"),
    ("master-key-of-keys", replace(POSTGRES, foreign_key_count=None), [], ""),
    ("master-key-of-keys", replace(POSTGRES, foreign_key_count=3), [FAILURE], "3 keys"),
    ("kafka-version", replace(KAFKA, cluster=replace(CLUSTER, fetch_version=13)), [FAILURE], "older than 3.5"),
    ("kafka-encryption", KAFKA, [OK], "TLS"),
    ("kafka-encryption", replace(KAFKA, is_encrypted=False, bootstrap=("localhost:9092", "a:9092")), [WARNING], "no TLS to a:9092"),
    (
        "kafka-encryption",
        replace(KAFKA, is_encrypted=False, bootstrap=("LocalHost:1", "127.0.0.2:9092", "[::1]:9092")),
        [OK],
        "none of the addresses leaves",
    ),
    ("kafka-encryption", replace(KAFKA, is_encrypted=False, bootstrap=("10.0.0.1:9092",)), [WARNING], "no TLS to 10.0.0.1:9092"),
    ("kafka-addresses", replace(KAFKA, bootstrap=("a:9092",)), [NOTE], "one address for 3 brokers"),
    ("kafka-addresses", replace(brokers({}, count=1), bootstrap=("a:9092",)), [OK], "1 for 1"),
    ("replication-factor", topic(partition=replace(PARTITION, replicas=(1,))), [WARNING], "topic order: 1 of 3 brokers"),
    ("replication-factor", brokers({"default.replication.factor": "1"}), [WARNING], "topics still to be made: 1"),
    ("replication-factor", replace(KAFKA, topic_replication_factor=2), [WARNING], "topics still to be made: 2"),
    ("replication-factor", replace(KAFKA, topic_replication_factor=5), [FAILURE], "5 replicas, and 3 brokers"),
    ("replication-factor", brokers({}, count=2, topics=(ORDER,)), [WARNING], "3 replicas, and 2 brokers"),
    ("replication-factor", brokers({}, count=2), [FAILURE], "3 replicas, and 2 brokers"),
    ("replication-factor", brokers({}), [OK], "at least 3"),
    ("replication-factor", replace(KAFKA, cluster=replace(CLUSTER, broker_settings={1: {}}, topics=())), [OK], "no topic yet"),
    ("min-insync-replicas", topic({"min.insync.replicas": "1"}), [FAILURE], "topic order: 1, with 3 replicas"),
    ("min-insync-replicas", topic({"min.insync.replicas": "3"}), [WARNING], "topic order: 3, with 3 replicas"),
    ("min-insync-replicas", topic(partition=replace(PARTITION, replicas=(1, 2))), [WARNING], "topic order: 2, with 2 replicas"),
    ("min-insync-replicas", topic({"min.insync.replicas": "1"}, partition=replace(PARTITION, replicas=(1,))), [OK], "fits"),
    ("min-insync-replicas", brokers({"min.insync.replicas": "1"}), [FAILURE], "topics still to be made: 1, with 3"),
    ("min-insync-replicas", replace(brokers({"min.insync.replicas": "1"}), topic_min_insync_replicas=2), [OK], "fits"),
    ("min-insync-replicas", replace(KAFKA, topic_min_insync_replicas=1), [FAILURE], "topics still to be made: 1, with 3"),
    ("unclean-leader-election", topic({"unclean.leader.election.enable": "true"}), [FAILURE], "topic order: true"),
    ("unclean-leader-election", brokers({"unclean.leader.election.enable": "true"}), [FAILURE], "topics still to be made"),
    ("topic-retention", topic({"retention.ms": "604800000"}), [FAILURE], "topic order: retention.ms=604800000 (7 days)"),
    ("topic-retention", topic({"retention.bytes": "1000"}), [FAILURE], "retention.bytes=1000"),
    ("topic-cleanup", topic({"cleanup.policy": "compact,delete"}), [FAILURE], "topic order: cleanup.policy=compact,delete"),
    ("topic-cleanup", topic({"cleanup.policy": "compact"}, name="_headwater_schemas"), [OK], "none compacted"),
    ("topic-record-size", topic({"max.message.bytes": "1048588"}), [FAILURE], "topic order: 1,048,588"),
    ("partition-leaders", topic(partition=replace(PARTITION, leader=-1)), [FAILURE], "partitions 0 take no writes"),
    ("partition-leaders", topic(partition=replace(PARTITION, in_sync=(1,))), [FAILURE], "partitions 0 take no writes"),
    ("partition-leaders", topic(partition=replace(PARTITION, in_sync=(1, 2))), [OK], "all led"),
    ("replicas-in-sync", topic(partition=replace(PARTITION, in_sync=(1, 2))), [WARNING], "partitions 0 have replicas that are behind"),
    ("auto-create-topics", brokers({"auto.create.topics.enable": "true"}), [WARNING], "true"),
    ("kafka-rights", replace(KAFKA, cluster=replace(CLUSTER, unread=("broker 1",))), [NOTE], "broker 1"),
]


def facts_of(name: str) -> Any:
    if any(check.name == name for check in OWN_CHECKS):
        return OWN
    return KAFKA if any(check.name == name for check in KAFKA_CHECKS) else POSTGRES


@pytest.mark.parametrize("name", CHECKS)
def test_as_it_should_be_each_check_has_one_good_finding(name: str) -> None:
    (finding,) = CHECKS[name](facts_of(name))
    assert (finding.name, finding.severity) == (name, OK)
    assert finding.found
    assert finding.expected
    assert not finding.cost
    assert not finding.remedy


@pytest.mark.parametrize(("name", "facts", "severities", "says"), CASES)
def test_what_is_found(name: str, facts: Any, severities: list[Severity], says: str) -> None:
    findings = CHECKS[name](facts)
    assert [finding.severity for finding in findings] == severities
    assert says in "".join(finding.found for finding in findings[:1])
    for finding in findings:
        assert finding.name == name
        assert finding.expected
        assert (finding.severity is OK) == (not finding.cost) == (not finding.remedy)


def test_every_check_is_seen_to_find_something() -> None:
    found = {name for name, _, severities, _ in CASES if any(severity is not OK for severity in severities)}
    assert found == set(CHECKS)


def test_names_are_stable_unique_and_like_codes() -> None:
    assert len(set(FINDING_NAMES)) == len(FINDING_NAMES)
    assert set(FINDING_NAMES) == {*CHECKS, POSTGRES_REACHED.name, KAFKA_REACHED.name}
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in FINDING_NAMES)


@pytest.mark.parametrize(
    ("facts", "remedy"),
    [
        (setting("synchronous_commit", "off", "user"), "ALTER ROLE shop_service RESET synchronous_commit;"),
        (setting("synchronous_commit", "off", "database"), "ALTER DATABASE shop RESET synchronous_commit;"),
        (setting("synchronous_commit", "off", "database user"), "ALTER ROLE shop_service IN DATABASE shop RESET synchronous_commit;"),
        (
            setting("synchronous_commit", "off", "configuration file"),
            "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();",
        ),
        (commit_of('O"Neil', "shop"), 'ALTER ROLE "O""Neil" IN DATABASE shop RESET synchronous_commit;'),
        (commit_of(None, None), "ALTER ROLE ALL RESET synchronous_commit;"),
    ],
)
def test_the_remedy_undoes_the_setting_where_it_was_made(facts: PostgresFacts, remedy: str) -> None:
    (finding,) = CHECKS["synchronous-commit"](facts)
    assert finding.remedy.startswith(remedy)


def test_a_synchronous_standby_makes_an_early_acknowledgement_cost_more() -> None:
    (with_standby,) = CHECKS["synchronous-commit"](setting("synchronous_commit", "off"))
    (alone,) = CHECKS["synchronous-commit"](replace(ALONE, settings={**ALONE.settings, "synchronous_commit": Setting("off")}))
    assert "failover may lose acknowledged events" in with_standby.cost
    assert "failover" not in alone.cost


@pytest.mark.parametrize(
    ("migrations", "remedy"),
    [
        (MigrationStatus((), load_migrations(), (), ()), "headwater migrate --schema acme"),
        (replace(MIGRATED, changed=MIGRATED.applied[:1]), "Install the Headwater that migrated this database."),
        (replace(MIGRATED, unknown=("9999_contract_all",)), "Install the Headwater that migrated this database."),
    ],
)
def test_what_to_do_about_another_schema(migrations: MigrationStatus, remedy: str) -> None:
    (finding,) = CHECKS["migrations"](replace(POSTGRES, schema="acme", migrations=migrations))
    assert finding.remedy == remedy


def test_without_roles_the_remedy_begins_with_making_them() -> None:
    (finding,) = CHECKS["login-rights"](rights(missing=("SELECT on events",), writer=None))
    assert finding.remedy.startswith("headwater migrate --roles, then GRANT headwater_writer TO shop_service;")


def test_brokers_that_disagree_are_judged_by_the_worst() -> None:
    mixed = {1: BROKER_SETTINGS, 2: {**BROKER_SETTINGS, "min.insync.replicas": "1", "default.replication.factor": "2"}}
    facts = replace(KAFKA, cluster=replace(CLUSTER, broker_ids=(1, 2), broker_settings=mixed, topics=()))
    assert FAILURE in {finding.severity for finding in CHECKS["min-insync-replicas"](facts)}
    assert [finding.found for finding in CHECKS["replication-factor"](facts)] == ["topics still to be made: 2 of 2 brokers"]


def test_the_worst_comes_first_and_the_order_stays_otherwise() -> None:
    def finding(name: str, severity: Severity) -> Finding:
        return Finding(name, severity, "found", "expected")

    given: Iterable[Finding] = [finding("a", OK), finding("b", WARNING), finding("c", FAILURE), finding("d", WARNING), finding("e", NOTE)]
    assert [each.name for each in worst_first(given)] == ["c", "b", "d", "e", "a"]
    assert has_failure(given)
    assert not has_failure([finding("b", WARNING)])
