"""Keys of data subjects in PostgreSQL: one for each, whoever is first, and gone when forgotten."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from headwater.errors import ConfigurationError, WrongExpectedVersion
from headwater.eventstore import PersonalEventStore, PostgresEventStore
from headwater.messages import ANY, EventRegistry
from headwater.postgres import Database
from headwater.privacy import KEY_AGE_SECONDS_MAX, MasterKey, PersonalData, PostgresSubjectKeys
from headwater.randomness import token_bytes
from headwater.testing import FakeClock, eventually
from tests.unit.privacy.people import GuestArrived

SUBJECTS = [f"guest {number}" for number in range(40)]
PROCESS = """
import asyncio, sys
from headwater.postgres import Database
from headwater.privacy import PostgresSubjectKeys

async def main():
    async with Database(sys.argv[1]) as database:
        async with database.connection() as connection:
            print("ready", flush=True)
            await connection.execute("SELECT pg_advisory_lock_shared(1)")
            keys = PostgresSubjectKeys(database)
            for subject in sys.argv[2].split(","):
                key = (await keys.obtain([subject]))[subject]
                print(subject, key.key_id, key.secret.hex(), flush=True)
            await keys.close()

asyncio.run(main())
"""


@pytest.fixture
async def keys(database: Database) -> AsyncIterator[PostgresSubjectKeys]:
    made = PostgresSubjectKeys(database)
    yield made
    await made.close()


async def test_two_processes_that_make_the_same_keys_at_once_get_the_same(database: Database, postgres_dsn: str) -> None:
    async with database.connection() as gate:
        await gate.execute("SELECT pg_advisory_lock(1)")
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROCESS, postgres_dsn, ",".join(SUBJECTS), stdout=asyncio.subprocess.PIPE
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        await gate.execute("SELECT pg_advisory_unlock(1)")
        outputs = [(await process.communicate())[0] for process in processes]
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") == len(SUBJECTS)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM headwater.subject_keys") == len(SUBJECTS)


@pytest.mark.parametrize("first_commits", [True, False])
async def test_who_meets_a_key_in_the_making_waits_for_it(database: Database, keys: PostgresSubjectKeys, first_commits: bool) -> None:
    async with database.connection() as first:
        transaction = first.transaction()
        await transaction.start()
        key_id = uuid4()
        await first.execute("INSERT INTO headwater.subject_keys (subject, key_id, wrapped_key) VALUES ('g', $1, $2)", key_id, b"k" * 32)
        second = asyncio.create_task(keys.obtain(["g", "h"]))

        async def waits() -> bool:
            async with database.connection() as watcher:
                return bool(await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(waits)
        await (transaction.commit() if first_commits else transaction.rollback())
    found = await second
    assert set(found) == {"g", "h"}
    assert (found["g"].key_id == key_id) is first_commits
    assert await keys.obtain(["g", "h"]) == found


async def test_many_tasks_at_once_agree(database: Database) -> None:
    several = [PostgresSubjectKeys(database) for _ in range(4)]
    answers = await asyncio.gather(*(keys.obtain(order) for keys in several for order in (SUBJECTS, SUBJECTS[::-1])))
    assert all(answer == answers[0] for answer in answers)
    for keys in several:
        await keys.close()


async def test_forgetting_keeps_the_row_and_the_first_moment(database: Database, keys: PostgresSubjectKeys) -> None:
    made = (await keys.obtain(["g"]))["g"]
    first, again = await keys.forget("g"), await keys.forget("g")
    assert first is not None
    assert again is not None
    assert (first.was_forgotten, again.was_forgotten) == (False, True)
    assert first.forgotten_at == again.forgotten_at
    assert again.seconds_ago >= first.seconds_ago >= 0
    assert await keys.forget("nobody") is None
    left = (await keys.obtain(["g"]))["g"]
    assert (left.key_id, left.secret, left.forgotten_at) == (made.key_id, None, first.forgotten_at), "no new key"
    assert await keys.find([made.key_id, uuid4()]) == {made.key_id: left}
    assert [fact.subject for fact in await keys.forgotten(5)] == ["g"]


async def test_a_lost_connection_is_opened_anew(database: Database, keys: PostgresSubjectKeys) -> None:
    made = await keys.obtain(["g"])
    async with database.connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )

    async def found() -> bool:
        from headwater.errors import StorageUnavailable

        try:
            return await keys.obtain(["g"]) == made
        except StorageUnavailable:
            return False

    await eventually(found)


async def test_a_master_key_wraps_what_is_stored(database: Database) -> None:
    master = MasterKey.parse(base64.b64encode(token_bytes(32)).decode())
    plain_keys, wrapping = PostgresSubjectKeys(database), PostgresSubjectKeys(database, master_key=master)
    before = await plain_keys.obtain(["before"])
    made = await wrapping.obtain(["before", "g"])
    assert made["before"] == before["before"], "keys that were stored without stay readable"
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT wrapped_key, wrapped_by FROM headwater.subject_keys WHERE subject = 'g'")
        assert row is not None
        assert made["g"].secret not in row["wrapped_key"]
        assert row["wrapped_by"] == master.name
        with pytest.raises(ConfigurationError, match=f"wrapped under the master key {master.name}, but HEADWATER_MASTER_KEY is not set"):
            await plain_keys.obtain(["g"])
        other = PostgresSubjectKeys(database, master_key=MasterKey(token_bytes(32)))
        with pytest.raises(ConfigurationError, match="give the right one"):
            await other.obtain(["g"])
        # A key that was put in another subject's place opens nothing.
        await wrapping.obtain(["h"])
        await connection.execute("UPDATE headwater.subject_keys SET wrapped_key = $1 WHERE subject = 'h'", row["wrapped_key"])
        with pytest.raises(ConfigurationError, match=r"key of 'h' in headwater\.subject_keys was altered"):
            await wrapping.obtain(["h"])
        assert await plain_keys.forget("g") is not None, "forgetting needs no master key"
    assert repr(master) == "MasterKey()"
    assert "secret" not in repr(made["g"])
    for keys in (plain_keys, wrapping, other):
        await keys.close()


@pytest.mark.parametrize("text", ["", "short", base64.b64encode(b"x" * 31).decode(), "%" * 44])
def test_a_master_key_that_is_none_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must be 32 bytes in base64") as caught:
        MasterKey.parse(text)
    assert not text or text not in str(caught.value)


# -- with appends ---------------------------------------------------------------------------------------------------------


async def test_an_append_that_fails_after_its_key_was_made_loses_nothing(database: Database, keys: PostgresSubjectKeys) -> None:
    personal = PersonalData(keys, EventRegistry([GuestArrived]))
    store = PersonalEventStore(PostgresEventStore(database), personal)
    guest = GuestArrived(guest_id="g", name="Ada")
    with pytest.raises(WrongExpectedVersion):
        await store.append("guest-1", [guest], expected_version=7)
    made = await keys.obtain(["g"])
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as connection:
            await store.append("guest-1", [GuestArrived(guest_id="h", name="Bo")], expected_version=0, connection=connection)
            raise ZeroDivisionError
    assert await store.stream_version("guest-1") == 0
    fresh = PersonalEventStore(PostgresEventStore(database), PersonalData(PostgresSubjectKeys(database)))
    await fresh.append("guest-1", [guest, GuestArrived(guest_id="h", name="Bo")], expected_version=0)
    assert await keys.obtain(["g"]) == made
    read = [GuestArrived.model_validate_json(event.data) async for event in store.read_stream("guest-1")]
    assert [event.name for event in read] == ["Ada", "Bo"]
    await fresh._personal.close()


async def test_keys_are_had_while_every_connection_of_the_pool_is_taken(postgres_dsn: str) -> None:
    """Two transactions hold both connections and append for new subjects: neither waits for the other."""
    async with Database(postgres_dsn, connections_max=2) as database:
        keys = PostgresSubjectKeys(database)
        store = PersonalEventStore(PostgresEventStore(database), PersonalData(keys))
        both = asyncio.Barrier(2)

        async def arrive(name: str) -> None:
            async with database.transaction() as connection:
                await both.wait()
                await store.append(f"guest-{name}", [GuestArrived(guest_id=name, name=name)], expected_version=0, connection=connection)

        async with asyncio.timeout(8):
            await asyncio.gather(arrive("g"), arrive("h"))
        await keys.close()


async def test_another_process_forgets_here_too_once_the_key_is_too_old(database: Database, keys: PostgresSubjectKeys) -> None:
    clock = FakeClock()
    personal = PersonalData(keys, clock=clock)
    store = PersonalEventStore(PostgresEventStore(database), personal)
    await store.append("guest-1", [GuestArrived(guest_id="g", name="Ada")], expected_version=ANY)
    elsewhere = PostgresSubjectKeys(database)
    await elsewhere.forget("g")

    async def name() -> str:
        (event,) = (await store.read_log(after=0)).events
        return GuestArrived.model_validate_json(event.data).name

    assert await name() == "Ada"
    await clock.advance(KEY_AGE_SECONDS_MAX + 0.001)
    assert await name() == "[forgotten]"
    await elsewhere.close()


async def test_a_long_stream_of_many_subjects_is_opened_in_pieces(database: Database, keys: PostgresSubjectKeys) -> None:
    store = PersonalEventStore(PostgresEventStore(database), PersonalData(keys))
    guests = [GuestArrived(guest_id=str(number % 150), name=f"n{number}", room="x") for number in range(450)]
    await store.append("guest-1", guests, expected_version=0)
    for backwards, limit in ((False, None), (True, 7), (False, 100)):
        wanted = [guest.name for guest in guests][:: -1 if backwards else 1][:limit]
        reading = store.read_stream("guest-1", backwards=backwards, limit=limit)
        assert [GuestArrived.model_validate_json(event.data).name async for event in reading] == wanted
