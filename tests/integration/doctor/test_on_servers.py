"""The doctor on real servers: what was made wrong on purpose is found, and nothing is changed by looking."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from headwater.config import Settings
from headwater.doctor import Finding, Severity, examine
from headwater.embedded import EmbeddedKafka, EmbeddedPostgres, bin_directory
from headwater.eventstore import LogInspection, PostgresEventStore
from headwater.kafka import KafkaSettings, KafkaTopics
from headwater.messages import ANY, NewEvent
from headwater.postgres import Database, Roles, apply_migrations, apply_roles
from headwater.privacy import MasterKey, PostgresSubjectKeys
from headwater.testing import MigratedDatabases, eventually
from tests.foreign_servers import at_full_count, pgbouncer, require

OK, NOTE, WARNING, FAILURE = Severity.OK, Severity.NOTE, Severity.WARNING, Severity.FAILURE


@dataclass(frozen=True)
class Findings:
    """What an examination found, by name."""

    all: list[Finding]

    def of(self, name: str) -> list[Finding]:
        return [finding for finding in self.all if finding.name == name]

    def one(self, name: str) -> Finding:
        (finding,) = self.of(name)
        return finding

    def severity(self, name: str) -> Severity:
        return self.one(name).severity

    def failures(self) -> list[tuple[str, str]]:
        return [(finding.name, finding.found) for finding in self.all if finding.severity is FAILURE]


async def look(dsn: str | None = None, kafka: str | None = None, *, categories: tuple[str, ...] = (), **settings: Any) -> Findings:
    chosen = Settings(postgres=dsn, kafka=kafka, **settings)
    return Findings(await examine(chosen, service_name="shop", categories=categories))


class SystemConfigured(EmbeddedPostgres):
    """A server whose synchronous_commit does not stand on its command line, where ALTER SYSTEM could not change it."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {name: value for name, value in self.settings.items() if name != "synchronous_commit"}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server with durable settings, which may be changed: it is this module's alone."""
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture(scope="module")
def databases(server: EmbeddedPostgres) -> Iterator[MigratedDatabases]:
    made = MigratedDatabases(server.dsn)
    yield made
    made.close()


@pytest.fixture
def dsn(databases: MigratedDatabases) -> Iterator[str]:
    with databases.fresh() as address:
        yield address


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    yield opened
    await opened.close()


@pytest.fixture
def category() -> str:
    return f"order{uuid4().hex[:12]}"


def as_user(dsn: str, user: str) -> str:
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{user}@{parts.netloc.rsplit('@', 1)[-1]}").geturl()


def database_of(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


def event() -> NewEvent:
    return NewEvent("OrderPlaced", '{"sku": "chai"}')


@asynccontextmanager
async def admin(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


# -- a healthy pair ---------------------------------------------------------------------------------------------------


async def test_a_healthy_pair_has_no_failure(dsn: str, kafka_server: str, category: str) -> None:
    await KafkaTopics(KafkaSettings.parse(kafka_server, topic_partitions=2)).ensure([category])
    findings = await look(dsn, kafka_server, categories=(category,))
    assert findings.failures() == []
    assert findings.severity("migrations") is OK
    assert findings.one("topic-retention").found.endswith("keep everything")
    assert findings.severity("login-power") is WARNING, "everybody is a superuser on the embedded server, and the doctor says so"


async def test_nothing_is_changed_by_looking(dsn: str, kafka_server: str, category: str, connection: asyncpg.Connection) -> None:
    """No epoch is opened, though no connection of Headwater's was there before, and no topic is made."""
    before = await connection.fetchval("SELECT count(*) FROM headwater.log_epochs")
    await look(dsn, kafka_server, categories=(category,))
    assert await connection.fetchval("SELECT count(*) FROM headwater.log_epochs") == before == 0
    assert await KafkaTopics(KafkaSettings.parse(kafka_server)).describe([category]) == {}


async def test_without_configured_servers_nothing_is_checked_of_servers() -> None:
    findings = await look()
    assert {finding.name for finding in findings.all} == {
        *("service", "aiokafka-version", "master-key", "cipher", "topic-partitions", "log-level"),
        *("postgres", "kafka"),
    }
    for name in ("postgres", "kafka"):
        assert findings.severity(name) is NOTE
        assert "an embedded server would be started, which is for development" in findings.one(name).found


async def test_a_server_that_does_not_answer_is_a_finding_and_the_other_is_still_checked(dsn: str, kafka_server: str) -> None:
    nowhere = "127.0.0.1:1"
    secret = "hush-7731"
    without_postgres = await look(f"postgresql://postgres:{secret}@{nowhere}/shop?password={secret}x", kafka_server)
    assert without_postgres.severity("postgres") is FAILURE
    assert without_postgres.severity("kafka-version") is OK
    assert secret not in repr(without_postgres.all)
    without_kafka = await look(dsn, nowhere)
    assert without_kafka.severity("kafka") is FAILURE
    assert without_kafka.severity("primary") is OK


@pytest.mark.parametrize("address", ["nonsense", "postgresql://postgres@127.0.0.1:99999/x", "postgresql://[::1/x"])
async def test_an_address_that_cannot_be_one_is_a_finding(address: str) -> None:
    findings = await look(address, "http://kafka:9092")
    assert findings.severity("postgres") is FAILURE
    assert findings.severity("kafka") is FAILURE


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


async def test_unsafe_settings_of_the_server_are_found() -> None:
    unsafe = {
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "max_prepared_transactions": "0",
        "max_connections": "30",
    }
    with await asyncio.to_thread(EmbeddedPostgres(settings=unsafe).start) as server:
        findings = await look(server.dsn)
    assert {name for name, _ in findings.failures()} == {"fsync", "full-page-writes", "synchronous-commit", "migrations"}
    assert findings.severity("max-prepared-transactions") is NOTE
    assert findings.severity("max-connections") is WARNING


async def test_synchronous_commit_off_by_alter_system_is_found_and_undone_by_its_remedy() -> None:
    with await asyncio.to_thread(SystemConfigured().start) as server:
        opened = await asyncpg.connect(server.dsn)
        try:
            await opened.execute("ALTER SYSTEM SET synchronous_commit = 'off'")
            await opened.execute("SELECT pg_reload_conf()")

            async def found() -> Finding | None:
                finding = (await look(server.dsn)).one("synchronous-commit")
                return finding if finding.severity is FAILURE else None

            finding = await eventually(found)
            assert isinstance(finding, Finding)
            for statement in finding.remedy.removesuffix(";").split("; "):
                await opened.execute(statement)

            async def mended() -> bool:
                return (await look(server.dsn)).severity("synchronous-commit") is OK

            await eventually(mended)
        finally:
            await opened.close()


async def test_synchronous_commit_off_in_the_address_is_found(dsn: str) -> None:
    found = (await look(f"{dsn}?synchronous_commit=off")).one("synchronous-commit")
    assert found.severity is FAILURE
    assert found.remedy == "Take synchronous_commit out of HEADWATER_POSTGRES."


async def test_synchronous_commit_off_for_a_database_is_found(dsn: str, connection: asyncpg.Connection) -> None:
    name = database_of(dsn)
    await connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    found = (await look(dsn)).one("synchronous-commit")
    assert found.severity is FAILURE
    assert found.remedy.startswith(f"ALTER DATABASE {name} RESET synchronous_commit;")
    await connection.execute(found.remedy.partition(";")[0])
    assert (await look(dsn)).severity("synchronous-commit") is OK


@pytest.mark.parametrize("scope", ["", "IN DATABASE"])
async def test_synchronous_commit_off_for_a_role_is_found_by_it_and_by_others(
    scope: str, dsn: str, databases: MigratedDatabases, connection: asyncpg.Connection
) -> None:
    role = f"headwater_test_{uuid4().hex[:10]}"
    where = f'{scope} "{database_of(dsn)}"' if scope else ""
    await connection.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA headwater TO {role}")
    try:
        await connection.execute(f"ALTER ROLE {role} {where} SET synchronous_commit = off")
        found = (await look(dsn)).one("synchronous-commit")
        assert found.severity is FAILURE
        assert found.found.startswith(f"off for role {role} in")
        assert (await look(as_user(dsn, role))).one("synchronous-commit").remedy == found.remedy
        await connection.execute(found.remedy.partition(";")[0])
        assert (await look(dsn)).severity("synchronous-commit") is OK
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_role_that_has_nothing_to_do_with_the_log_may_commit_as_it_likes(dsn: str, connection: asyncpg.Connection) -> None:
    role = f"headwater_test_{uuid4().hex[:10]}"
    await connection.execute(f"CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET synchronous_commit = off")
    try:
        assert (await look(dsn)).severity("synchronous-commit") is OK
    finally:
        await connection.execute(f"DROP ROLE {role}")


async def test_an_unmigrated_database_is_found(databases: MigratedDatabases) -> None:
    with databases.fresh(migrated=False) as dsn:
        findings = await look(dsn)
        assert findings.failures() == [("migrations", "schema headwater: no log was set up here")]
        assert findings.one("migrations").remedy == "headwater migrate"
        assert findings.of("horizon") == []


async def test_a_log_in_a_schema_of_its_own_is_found_there(databases: MigratedDatabases) -> None:
    with databases.fresh(migrated=False) as dsn:
        async with Database(dsn, schema="acme") as database, database.connection() as connection:
            await apply_migrations(connection)
        findings = await look(dsn, log_schema="acme")
        assert findings.failures() == []
        assert findings.severity("horizon") is OK
        assert (await look(dsn, log_schema="other")).one("migrations").remedy == "headwater migrate --schema other"


@pytest.mark.parametrize("crashes", [False, True])
async def test_a_prepared_transaction_left_behind_is_found(
    crashes: bool, dsn: str, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a crash, from which it comes back without the session that prepared it."""
    monkeypatch.setattr("headwater.doctor.log_checks.OPEN_SECONDS_SUSPICIOUS", 0.0)
    async with Database(dsn) as database:
        store = PostgresEventStore(database)
        leaving = await asyncpg.connect(dsn)
        await leaving.execute("BEGIN; SAVEPOINT inside")
        await store.append("order-1", [event()], expected_version=ANY, connection=leaving)
        await leaving.execute("PREPARE TRANSACTION 'left ''behind'")
        await leaving.close()
        await store.append("order-2", [event()], expected_version=ANY)
        (writer,) = (await LogInspection(database).stats()).writers
        assert writer.prepared_name == "left 'behind"
    if crashes:
        await asyncio.to_thread(server.crash_restart)
    findings = await look(dsn)
    assert [findings.severity(name) for name in ("prepared-transactions", "horizon")] == [WARNING, WARNING]
    assert "left 'behind" in findings.one("horizon").found
    connection = await asyncpg.connect(dsn)
    await connection.execute(findings.one("horizon").remedy.rpartition(" or ")[2].partition(",")[0])
    await connection.close()
    findings = await look(dsn)
    assert [findings.severity(name) for name in ("prepared-transactions", "horizon")] == [OK, OK]


async def test_an_open_append_is_seen_only_while_it_holds_others_back(dsn: str) -> None:
    async with Database(dsn) as database:
        store = PostgresEventStore(database)
        async with database.transaction() as borrowed:
            await store.append("order-1", [event()], expected_version=ANY, connection=borrowed)
            await store.append("order-2", [event()], expected_version=ANY)
            assert (await look(dsn)).one("horizon").found == "1 in flight"
        assert (await look(dsn)).one("horizon").found == "none"


async def test_a_transaction_that_idles_for_long_is_found(
    dsn: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.doctor.postgres.OPEN_SECONDS_MAX", 0.0)
    async with connection.transaction():
        await connection.execute("SELECT 1")
        found = (await look(dsn)).one("idle-transactions")
        assert found.severity is WARNING
        assert f"pg_terminate_backend({connection.get_server_pid()})" in found.remedy
    assert (await look(dsn)).severity("idle-transactions") is OK


async def test_each_role_is_told_what_it_may_not_and_what_it_should_not(dsn: str, connection: asyncpg.Connection) -> None:
    roles = Roles.named(f"headwater_test_{uuid4().hex[:10]}")
    async with Database(dsn) as database, database.connection() as borrowed:
        await apply_roles(borrowed, roles)
    names = (roles.owner, roles.writer, roles.reader)
    for name in names:
        await connection.execute(f"CREATE ROLE {name}_login LOGIN IN ROLE {name}")
    await connection.execute(f"CREATE ROLE {roles.reader}_stranger LOGIN")
    try:
        writer = await look(as_user(dsn, f"{roles.writer}_login"))
        assert writer.failures() == []
        assert {writer.severity(name) for name in ("login-rights", "login-power", "log-owner", "unread-facts")} == {OK}
        assert writer.severity("session-details") is NOTE
        owner = await look(as_user(dsn, f"{roles.owner}_login"))
        assert owner.failures() == []
        assert "TRUNCATE on events" in owner.one("login-power").found
        reader = await look(as_user(dsn, f"{roles.reader}_login"))
        assert reader.severity("login-rights") is FAILURE
        assert reader.one("login-rights").remedy.startswith(f"GRANT {roles.writer} TO {roles.reader}_login;")
        assert reader.severity("login-power") is OK
        stranger = await look(as_user(dsn, f"{roles.reader}_stranger"))
        assert "migrations: " in stranger.one("unread-facts").found
        assert stranger.severity("fsync") is OK
    finally:
        for name in names:
            await connection.execute(f"DROP ROLE {name}_login")
        await connection.execute(f"DROP ROLE {roles.reader}_stranger")
        await connection.execute(f"REASSIGN OWNED BY {roles.owner} TO postgres")
        await connection.execute(f"DROP OWNED BY {', '.join(names)}; DROP ROLE {', '.join(names)}")


async def test_what_came_due_while_nobody_ran_is_found_and_what_is_late_by_seconds_is_not(dsn: str, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "SELECT headwater.schedule_event('billing-1', 'Reminded', '{}', '{}', gen_random_uuid(), now() - interval '5 seconds')"
    )
    assert (await look(dsn)).severity("overdue") is OK
    await connection.execute(
        "SELECT headwater.schedule_event('billing-1', 'Reminded', '{}', '{}', gen_random_uuid(), now() - interval '2 minutes')"
    )
    await connection.execute(
        "INSERT INTO headwater.schedules (service_name, schedule_name, cron, timezone, next_at) "
        "VALUES ('shop', 'nightly', '* * * * *', 'UTC', now() - interval '1 day')"
    )
    found = (await look(dsn)).of("overdue")
    assert [finding.severity for finding in found] == [WARNING, WARNING]
    assert re.fullmatch(r"1 message due, the first for 12\d s", found[0].found)
    assert re.fullmatch(r"1 schedule due, the first for 86,4\d\d s", found[1].found)
    await connection.execute(
        "UPDATE headwater.scheduled_messages SET attempts = 1, error = 'closed', retry_at = now() + interval '1 minute'"
    )
    assert "1 tried and failed" in (await look(dsn)).of("overdue")[0].found


async def test_keys_under_another_master_key_are_found(dsn: str) -> None:
    master_key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    async with Database(dsn) as database:
        keys = PostgresSubjectKeys(database, master_key=MasterKey.parse(master_key))
        await keys.obtain(["kim"])
        await keys.close()
    assert (await look(dsn, master_key=master_key)).severity("master-key-of-keys") is OK
    assert (await look(dsn)).severity("master-key-of-keys") is FAILURE
    broken = await look(dsn, master_key="not a key")
    assert broken.severity("master-key") is FAILURE
    assert "not a key" not in repr(broken.all)


async def test_a_pooling_that_no_pooler_asks_for_is_found(dsn: str) -> None:
    findings = await look(dsn, postgres_pooling="transaction")
    assert findings.severity("pooler") is NOTE
    assert findings.severity("idle-timeout") is WARNING


@at_full_count
async def test_a_pooler_that_was_not_mentioned_is_found(dsn: str, server: EmbeddedPostgres) -> None:
    port = urlsplit(server.dsn).port
    assert port is not None
    ignored = "default_transaction_isolation,tcp_keepalives_idle,tcp_keepalives_interval,tcp_keepalives_count,tcp_user_timeout"
    program = require("/usr/sbin/pgbouncer", "pgbouncer")
    with pgbouncer(program, port, options=f"ignore_startup_parameters = {ignored},idle_in_transaction_session_timeout") as pooled:
        through = urlsplit(dsn)._replace(netloc=f"postgres@127.0.0.1:{pooled}").geturl()
        right = await look(through, postgres_pooling="transaction")
        assert right.failures() == []
        assert right.one("pooler").found == "a pooler, pooling by transaction"
        wrong = await look(through)
        found = [*wrong.of("pooler"), *wrong.of("postgres")]
        assert FAILURE in {finding.severity for finding in found}
        assert "HEADWATER_POSTGRES_POOLING=transaction" in repr(found)
    with pgbouncer(program, port) as refusing:
        through = urlsplit(dsn)._replace(netloc=f"postgres@127.0.0.1:{refusing}").geturl()
        assert "HEADWATER_POSTGRES_POOLING=transaction" in (await look(through)).one("postgres").found


def receive_wal(server: EmbeddedPostgres, folder: Path, name: str) -> subprocess.Popen[bytes]:
    """What PostgreSQL takes for a synchronous standby."""
    address = f"{server.dsn}?application_name={name}"
    program = bin_directory() / "pg_receivewal"
    return subprocess.Popen([program, "--directory", folder, "--synchronous", "--no-loop", "--dbname", address], stderr=subprocess.DEVNULL)


async def test_standbys_are_told_apart(tmp_path: Path) -> None:
    with await asyncio.to_thread(EmbeddedPostgres().start) as server:

        async def standbys(severity: Severity) -> object:
            async def are() -> bool:
                return (await look(server.dsn)).severity("standbys") is severity

            return await eventually(are)

        await standbys(NOTE)
        follower = await asyncio.to_thread(receive_wal, server, tmp_path, "follower")
        try:
            await standbys(WARNING)
            connection = await asyncpg.connect(server.dsn)
            await connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (follower)'")
            await connection.execute("SELECT pg_reload_conf()")
            await standbys(OK)
            await connection.execute("SET synchronous_commit = local")
            await connection.execute("ALTER ROLE postgres SET synchronous_commit = local")
            await connection.close()
            found = (await look(server.dsn)).one("synchronous-commit")
            assert found.severity is FAILURE
            assert "a failover may lose acknowledged events" in found.cost
        finally:
            follower.terminate()
            follower.wait(10)
        await standbys(FAILURE)


# -- Kafka ------------------------------------------------------------------------------------------------------------

WRONG = [
    ({"unclean.leader.election.enable": "true"}, "unclean-leader-election"),
    ({"retention.ms": "604800000"}, "topic-retention"),
    ({"retention.bytes": "1000000"}, "topic-retention"),
    ({"cleanup.policy": "compact"}, "topic-cleanup"),
    ({"max.message.bytes": "1000"}, "topic-record-size"),
]


@pytest.mark.parametrize(("changes", "name"), WRONG)
async def test_a_topic_that_would_lose_records_is_found(changes: dict[str, str], name: str, kafka_server: str, category: str) -> None:
    wanted = {"retention.ms": "-1", "max.message.bytes": "2097152", **changes}
    async with admin(kafka_server) as client:
        await client.create_topics([NewTopic(category, 1, 1, topic_configs=wanted)])

    async def found() -> bool:
        findings = await look(kafka=kafka_server, categories=(category,))
        assert [(failed, text.partition(":")[0]) for failed, text in findings.failures()] == [(name, f"topic {category}")]
        return True

    await eventually(found)


async def test_topics_that_the_relay_wrote_to_are_found_in_its_rows(
    dsn: str, kafka_server: str, category: str, connection: asyncpg.Connection
) -> None:
    """Without the service's code: the database says which topics its log goes to."""
    async with admin(kafka_server) as client:
        await client.create_topics([NewTopic(category, 1, 1, topic_configs={"retention.ms": "1000", "max.message.bytes": "2097152"})])
    await connection.execute("INSERT INTO headwater.relay_topics (topic, partition_count) VALUES ($1, 1)", category)

    async def found() -> bool:
        return any(category in text for _, text in (await look(dsn, kafka_server)).failures())

    await eventually(found)


async def test_more_replicas_than_brokers_are_found(kafka_server: str) -> None:
    found = (await look(kafka=kafka_server, topic_replication_factor=1_000)).of("replication-factor")
    assert FAILURE in {finding.severity for finding in found}
    assert "HEADWATER_TOPIC_REPLICATION_FACTOR=" in repr(found)


async def test_a_cluster_of_three_is_looked_at_while_a_broker_is_away(category: str) -> None:
    with await asyncio.to_thread(EmbeddedKafka(nodes=3).start) as kafka:
        await KafkaTopics(KafkaSettings.parse(kafka.bootstrap, topic_partitions=3)).ensure([category])

        async def severities(**expected: Severity) -> object:
            async def are() -> bool:
                findings = await look(kafka=kafka.bootstrap, categories=(category,))
                assert findings.failures() == []
                names = {name: name.replace("_", "-") for name in expected}
                assert {name: findings.severity(names[name]) for name in expected} == expected
                return True

            return await eventually(are, 60)

        await severities(kafka=OK, replication_factor=OK, min_insync_replicas=OK, replicas_in_sync=OK, kafka_rights=OK)
        await asyncio.to_thread(kafka.nodes[0].kill)
        # At every moment, also before the others have noticed, the cluster is looked at.
        for _ in range(3):
            assert (await look(kafka=kafka.bootstrap, categories=(category,))).severity("kafka") is OK
        await severities(kafka=OK, replicas_in_sync=WARNING, partition_leaders=OK)


async def test_two_examinations_at_once_do_not_disturb_each_other(dsn: str, kafka_server: str) -> None:
    first, second = await asyncio.gather(look(dsn, kafka_server), look(dsn, kafka_server))
    assert first.failures() == second.failures() == []
