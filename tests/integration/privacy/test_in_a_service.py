"""Personal data through a whole service: sealed wherever it lies, open where it is used, redacted once forgotten."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer

from headwater import Context, DeadLetterIt, Event, Personal, Projection, Service, SqlProjection, on
from headwater.bus import DeadLetterDesk
from headwater.config import Settings
from headwater.messages import NewEvent
from headwater.postgres import Connection, Database
from headwater.projections import list_lags
from headwater.testing import eventually

CATEGORY = f"member{uuid4().hex[:8]}"
SECRETS = ("Lovelace", "1815-12-10", "St James", "ada@")


class MemberJoined(Event, category=CATEGORY):
    member_id: str
    name: Annotated[str, Personal("member_id")]
    address: Annotated[dict[str, str], Personal("member_id", redacted={})]
    plan: str = "basic"


class MemberGreeted(Event, category=CATEGORY):
    member_id: str
    text: Annotated[str, Personal("member_id")]


VISITS = f"visit{uuid4().hex[:8]}"


class VisitorNoted(Event, category=VISITS):
    person_id: str
    name: Annotated[str, Personal("person_id")]


class VisitCounted(Event, category=VISITS):
    number: int


class Visitors(Projection):
    names: str = ""

    @on(VisitorNoted)
    def noted(self, event: VisitorNoted) -> None:
        self.names += event.name


class Visits(Projection):
    count: int = 0

    @on(VisitCounted)
    def counted(self, event: VisitCounted) -> None:
        self.count += event.number


class Names(Projection, key="member_id"):
    name: str = ""
    plan: str = ""

    @on(MemberJoined)
    def joined(self, event: MemberJoined) -> None:
        self.name, self.plan = event.name, event.plan


class NameTable(SqlProjection):
    tables = "CREATE TABLE names (member_id text PRIMARY KEY, name text NOT NULL)"

    @on(MemberJoined)
    async def joined(self, event: MemberJoined, connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO names VALUES ($1, $2) ON CONFLICT (member_id) DO UPDATE SET name = excluded.name", event.member_id, event.name
        )


def club(dsn: str, kafka: str, **options: Any) -> tuple[Service, list[MemberJoined]]:
    service = Service(f"club-{CATEGORY}", settings=Settings(postgres=dsn, kafka=kafka, topic_replication_factor=1), **options)
    seen: list[MemberJoined] = []
    service.projection(Names)
    service.projection(NameTable)

    @service.on(MemberJoined, on_error={RuntimeError: DeadLetterIt()})
    async def greet(event: MemberJoined, context: Context) -> None:
        assert "headwater_sealed" not in context.metadata
        assert context.decode(context.recorded) == event
        before = [context.decode(recorded) async for recorded in context.read_stream(context.stream_name)]
        assert before[0] == event
        seen.append(event)
        if event.plan == "poison":
            raise RuntimeError("no such plan")
        await context.append(f"{CATEGORY}-greeting:{event.member_id}", MemberGreeted(member_id=event.member_id, text=f"Hello {event.name}"))

    return service, seen


async def places_with(database: Database, *texts: str) -> list[str]:
    """Every table and view of Headwater's own in which one of these texts stands, however it is cast."""
    async with database.connection() as connection:
        tables = await connection.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'headwater'")
        found: list[str] = []
        for (table,) in tables:
            for text in texts:
                if await connection.fetchval(f"SELECT count(*) FROM headwater.{table} AS t WHERE strpos(t::text, $1) > 0", text):
                    found.append(f"{table}: {text}")
        return found


async def kafka_bytes(bootstrap: str, topic: str, count: int) -> bytes:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        found = [await asyncio.wait_for(consumer.getone(), 30) for _ in range(count)]
    finally:
        await consumer.stop()
    return b"\n".join(b"%r %r" % (record.value, record.headers) for record in found)


async def test_sealed_everywhere_open_in_use_and_redacted_once_forgotten(
    postgres_dsn: str, kafka_bootstrap: str, database: Database
) -> None:
    service, seen = club(postgres_dsn, kafka_bootstrap)
    ada = MemberJoined(
        member_id="ada", name="Ada Lovelace", address={"street": "St James", "born": "1815-12-10", "mail": "ada@example.org"}
    )
    spoilt = MemberJoined(member_id="ada", name="Ada Lovelace", address={}, plan="poison")
    bo = MemberJoined(member_id="bo", name="Bo", address={})
    async with service:
        await service.store.append(f"{CATEGORY}-1", [ada], expected_version=0)
        await service.store.append(f"{CATEGORY}-2", [bo], expected_version=0)
        await service.events.publish("MemberGreeted", {"member_id": "ada", "text": "Hello Lovelace, by name"})
        for key, name in (("ada", "Ada Lovelace"), ("bo", "Bo")):
            row = await service.read(Names, key, consistency="causal")
            assert row is not None
            assert row.name == name

        async def greeted() -> bool:
            return (
                await service.store.stream_version(f"{CATEGORY}-greeting:ada")
                == 1
                == await service.store.stream_version(f"{CATEGORY}-greeting:bo")
            )

        await eventually(greeted, 30)
        await service.store.append(f"{CATEGORY}-3", [spoilt], expected_version=0)

        async def buried() -> bool:
            return await service.dead_letters.count() == 1

        await eventually(buried, 60)
        assert ada in seen
        assert spoilt in seen

        # Wherever a copy lies, it is sealed: the log with its metadata, dead letters, Kafka.
        assert await places_with(database, *SECRETS) == []
        assert await places_with(database, "headwater:sealed:1:") != [], "it was looked for rightly"
        on_wire = await kafka_bytes(kafka_bootstrap, CATEGORY, 6)
        assert not any(secret.encode() in on_wire for secret in SECRETS)
        assert b"basic" in on_wire

        # Forgotten: at once in this process.
        assert await service.forget("ada") is not None
        typed = [service.events.registry.decode(recorded) async for recorded in service.store.read_stream(f"{CATEGORY}-1")]
        assert typed == [MemberJoined(member_id="ada", name="[forgotten]", address={})]
        assert (await service.verify(Names)).differences, "the read model still holds plain text"
        seen.clear()
        (letter,) = await service.dead_letters.list()
        assert letter.dead_letter_id is not None
        assert letter.data is not None
        assert "headwater:sealed:1:" in letter.data
        await DeadLetterDesk(database).retry([letter.dead_letter_id])

        async def tried() -> bool:
            return bool(seen)

        await eventually(tried, 30)
        assert seen == [MemberJoined(member_id="ada", name="[forgotten]", address={}, plan="poison")]

        # Replay still works, and takes the plain text out of the read models.
        for name in ("names", "name_table"):
            await service.replay(name)
        row = await service.read(Names, "ada", consistency="causal")
        assert row is not None
        assert (row.name, row.plan) == ("[forgotten]", "poison")
        async with service.query(NameTable) as tables:
            assert sorted([(r["member_id"], r["name"]) for r in await tables.fetch("SELECT * FROM names")]) == [
                ("ada", "[forgotten]"),
                ("bo", "Bo"),
            ]


async def test_a_service_without_the_key_sees_the_redaction_unless_it_is_given_a_source(
    postgres_dsn: str, kafka_bootstrap: str, headwater_databases: Any
) -> None:
    """The log's own service, and two readers over Kafka with databases of their own."""
    from headwater.privacy import PostgresSubjectKeys

    category = f"person{uuid4().hex[:8]}"
    noted: type[Any] = type(
        "PersonNoted",
        (Event,),
        {"__annotations__": {"person_id": str, "name": Annotated[str, Personal("person_id")]}, "__module__": __name__},
        category=category,
    )
    settings = {"kafka": kafka_bootstrap, "topic_replication_factor": 1}
    owner = Service("owner", settings=Settings(postgres=postgres_dsn, **settings))
    owner.events.register(noted)
    with headwater_databases.fresh() as first, headwater_databases.fresh() as second:
        async with Database(postgres_dsn) as owners_database:
            source = PostgresSubjectKeys(owners_database)
            seen: dict[str, list[str]] = {"stranger": [], "informed": []}
            services = [
                Service(f"stranger-{category}", settings=Settings(postgres=first, **settings)),
                Service(f"informed-{category}", settings=Settings(postgres=second, **settings), key_source=source),
            ]
            for service, names in zip(services, seen.values(), strict=True):

                async def note(event: Any, *, into: list[str] = names) -> None:
                    into.append(event.name)

                service.on(noted)(note)
            async with owner, services[0], services[1]:
                await owner.store.append(f"{category}-1", [noted(person_id="p", name="Ada")], expected_version=0)

                async def both() -> bool:
                    return all(seen.values())

                await eventually(both, 60)
            await source.close()
    assert seen == {"stranger": ["[forgotten]"], "informed": ["Ada"]}


async def test_an_altered_value_stops_only_who_takes_that_event(postgres_dsn: str, kafka_bootstrap: str, database: Database) -> None:
    """The projection that takes it stops there, the handler has a dead letter, and everything else goes on."""
    service = Service(f"{VISITS}", settings=Settings(postgres=postgres_dsn, kafka=kafka_bootstrap, topic_replication_factor=1))
    service.projection(Visitors)
    service.projection(Visits)
    seen: list[str] = []

    @service.on(VisitorNoted)
    async def note(event: VisitorNoted) -> None:
        seen.append(event.name)

    async with service.connect():
        people = [VisitorNoted(person_id="p", name="Ada"), VisitorNoted(person_id="p", name="Bo"), VisitCounted(number=1)]
        await service.store.append(f"{VISITS}-1", people, expected_version=0)
    async with database.connection() as connection:
        cut = "overlay(data ->> 'name' PLACING 'AAAAAAAA' FROM 60)"
        await connection.execute(f"UPDATE headwater.events SET data = jsonb_set(data, '{{name}}', to_jsonb({cut})) WHERE version = 2")
    async with service:
        row = await service.read(Visits, consistency="strong")
        assert row is not None
        assert row.count == 1

        async def buried() -> bool:
            return await service.dead_letters.count() == 1

        await eventually(buried, 60)
        assert set(seen) == {"Ada"}, "tried again with its batch, and never with what is sealed"
        (letter,) = await service.dead_letters.list()
        assert "SealBroken" in letter.error_type

        async def stopped() -> bool:
            return any(lag.live.status == "failed" for lag in await list_lags(database))

        await eventually(stopped, 30)
        row = await service.read(Visitors)
        assert row is not None
        assert row.names == "Ada"


def test_new_events_hold_plain_text_only_in_this_process() -> None:
    assert NewEvent.of(MemberJoined(member_id="a", name="b", address={})).personal is not None
