"""States with personal data: sealed in snapshots or not kept at all, in the cache no longer than their keys, and redacted once forgotten."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest
import structlog
from pydantic import BaseModel

from headwater.errors import StorageUnavailable, UsageError
from headwater.eventstore import Decider, PersonalEventStore, Snapshots, decide
from headwater.messages import ANY, EventRegistry, RecordedEvent
from headwater.personal import Personal
from headwater.privacy import KEY_AGE_SECONDS_MAX, OpenedState
from headwater.testing import FakeClock, MemoryEventStore, MemorySnapshotStore, MemorySubjectKeys
from tests.unit.eventstore.members import (
    GREETED,
    KEPT_IN_CLEAR,
    MEMBER,
    SOON,
    STREAM,
    Club,
    Member,
    MemberNamed,
    MemberPaid,
    Name,
    Pay,
    Payments,
    Plain,
    evolve_member,
    evolve_payments,
    plain_member,
    run,
)

FORGOTTEN = "[forgotten]"


@pytest.fixture
def keys() -> MemorySubjectKeys:
    return MemorySubjectKeys()


@pytest.fixture
def snapshots() -> MemorySnapshotStore:
    return MemorySnapshotStore()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def club(keys: MemorySubjectKeys, snapshots: MemorySnapshotStore, clock: FakeClock) -> Club:
    return Club(MemoryEventStore(), keys, snapshots, clock)


# -- snapshots


async def test_snapshot_is_sealed_and_opens_again(club: Club, snapshots: MemorySnapshotStore) -> None:
    await club.decide(MEMBER, Name("Åda Lovelace"))
    await club.decide(MEMBER, Pay())
    (snapshot,) = snapshots.snapshots
    stored = json.loads(snapshot.state)
    assert (stored["name"].startswith("headwater:sealed:1:"), stored["member_id"], stored["paid"]) == (True, "ada", 0)
    assert "Lovelace" not in snapshot.state
    assert (await club.decide(MEMBER, Pay())).state == Member(member_id="ada", name="Åda Lovelace", paid=2)


async def test_nothing_but_the_protocol_is_asked_of_what_seals(club: Club, snapshots: MemorySnapshotStore) -> None:
    """And it is asked nothing where the state has no personal fields."""

    class Reversing:
        calls = 0

        async def seal_state(self, model_class: type[BaseModel], text: str) -> str:
            self.calls += 1
            return f"{model_class.__name__} {text[::-1]}"

        async def open_state(self, model_class: type[BaseModel], text: str) -> OpenedState:
            self.calls += 1
            return OpenedState(text.removeprefix(f"{model_class.__name__} ")[::-1])

    payments = Decider(Payments(), run, evolve_payments, name="payments", snapshots=SOON)
    personal, registry, log = Reversing(), EventRegistry([MemberPaid]), MemoryEventStore()
    await log.append(STREAM, [MemberPaid(amount=1)], expected_version=ANY)
    for decider, calls in ((payments, 0), (MEMBER, 3)):
        for _ in range(2):
            await decide(log, registry, decider, STREAM, Pay(), snapshots=snapshots, personal=personal)
        assert personal.calls == calls
    assert {snapshot.state[:7] for snapshot in snapshots.snapshots} == {'{"paid"', "Member "}


async def test_forgotten_subject_comes_as_the_fold_has_it(club: Club, snapshots: MemorySnapshotStore) -> None:
    """Also where the state's own redaction is another text: a short cut changes no state."""
    await club.decide(GREETED, Name("Åda"))
    await club.decide(GREETED, Pay())
    await club.personal.forget("ada")
    with structlog.testing.capture_logs() as facts:
        for _ in range(2):
            assert (await club.decide(GREETED, Pay())).state.greeting == f"Hello {FORGOTTEN}"
    assert [(fact["event"], fact["reason"]) for fact in facts] == [("snapshot_dropped", "subject_forgotten")]
    assert snapshots.snapshots == (), "what is not the mark's redaction is not kept of a forgotten subject"


async def test_state_of_a_forgotten_subject_is_kept_redacted(club: Club, snapshots: MemorySnapshotStore) -> None:
    await club.decide(MEMBER, Name("Åda"))
    await club.decide(MEMBER, Pay())
    await club.personal.forget("ada")
    for paid in (2, 3):
        assert (await club.decide(MEMBER, Pay())).state == Member(member_id="ada", name=FORGOTTEN, paid=paid)
    (snapshot,) = snapshots.snapshots
    assert (json.loads(snapshot.state)["name"], snapshot.version) == (FORGOTTEN, 3)


async def test_plain_text_of_a_subject_forgotten_elsewhere_is_not_kept(
    club: Club, keys: MemorySubjectKeys, snapshots: MemorySnapshotStore
) -> None:
    """Its keys to open are still held here, those to seal are asked for: the moment in which a snapshot could outlive the key."""
    await club.decide(MEMBER, Name("Åda"), with_cache=True)
    await club.decide(MEMBER, Pay(), with_cache=True)
    await keys.forget("ada")
    club.personal._cache._by_subject.clear()
    (before,) = snapshots.snapshots
    with structlog.testing.capture_logs() as facts:
        assert (await club.decide(MEMBER, Pay(), with_cache=True)).state.name == "Åda", "within these seconds"
    assert (snapshots.snapshots, facts) == ((before,), [])


async def test_unreachable_keys_are_an_error_and_cost_no_snapshot(
    club: Club, keys: MemorySubjectKeys, snapshots: MemorySnapshotStore
) -> None:
    await club.decide(MEMBER, Name("Åda"))
    await club.decide(MEMBER, Pay())
    await club.personal.close()
    keys.is_reachable = False
    with pytest.raises(StorageUnavailable):
        await club.decide(MEMBER, Pay())
    assert len(snapshots.snapshots) == 1


async def test_altered_snapshot_is_dropped(club: Club, snapshots: MemorySnapshotStore) -> None:
    await club.decide(MEMBER, Name("Åda"))
    await club.decide(MEMBER, Pay())
    (snapshot,) = snapshots.snapshots
    await snapshots.drop(snapshot)
    behind_key_id = snapshot.state.index("sealed:1:") + 40
    altered = snapshot.state[:behind_key_id] + "AAAAAAAA" + snapshot.state[behind_key_id + 8 :]
    await snapshots.save(replace(snapshot, state=altered))
    with structlog.testing.capture_logs() as facts:
        assert (await club.decide(MEMBER, Pay())).state.name == "Åda"
    assert [fact["reason"] for fact in facts] == ["not_readable"]


async def test_personal_data_without_a_subject_is_not_kept_and_the_log_says_which(club: Club, snapshots: MemorySnapshotStore) -> None:
    nobody = replace(MEMBER, evolve=lambda state, event: evolve_member(state, event).model_copy(update={"member_id": ""}))
    await club.decide(nobody, Name("Åda"))
    with structlog.testing.capture_logs() as facts:
        await club.decide(nobody, Pay())
    assert [fact["event"] for fact in facts] == ["snapshot_not_saved"]
    assert "Member has personal data in 'name'" in facts[0]["reason"]
    assert "Åda" not in str(facts)
    assert snapshots.snapshots == ()


async def test_state_may_be_none_beside_the_model(club: Club, snapshots: MemorySnapshotStore) -> None:
    maybe: Decider[object, Member | None] = Decider(
        None,
        run,
        lambda state, event: evolve_member(state or Member(), event) if isinstance(event, MemberNamed) or state else None,
        name="maybe",
        snapshots=Snapshots(every=1, state_type=Member | None),
    )
    await club.decide(maybe, Pay())
    assert (await club.decide(maybe, Pay())).state is None
    assert [snapshot.state for snapshot in snapshots.snapshots] == ["null"]
    await club.decide(maybe, Name("Åda"))
    await club.decide(maybe, Pay())
    assert "Åda" not in snapshots.snapshots[0].state
    assert (await club.decide(maybe, Pay())).state == Member(member_id="ada", name="Åda", paid=2)


# -- states that say nothing of what they hold


async def test_state_without_marks_is_not_kept_beside_sealed_events_and_that_is_said_once(
    club: Club, snapshots: MemorySnapshotStore
) -> None:
    plain = plain_member()
    await club.decide(plain, Pay())
    await club.decide(plain, Pay(), with_cache=True)
    (before,) = snapshots.snapshots
    assert json.loads(before.state)["paid"] == 1, "there is nothing personal yet"
    with structlog.testing.capture_logs() as facts:
        for with_cache in (True, False, True, False):
            await club.decide(plain, Name("Åda"), with_cache=with_cache)
            await club.decide(plain, Pay(), with_cache=with_cache, stream_name="member-2")
    assert all("Åda" not in snapshot.state for snapshot in snapshots.snapshots)
    assert {snapshot.stream_name: snapshot.version for snapshot in snapshots.snapshots} == {STREAM: 2, "member-2": 3}, "the other goes on"
    (fact,) = facts
    assert (fact["event"], fact["log_level"], fact["decider"]) == ("snapshots_not_kept", "warning", "plain")
    assert "holds_personal_data=False" in fact["hint"]
    assert "Åda" not in str(fact)


async def test_nothing_but_the_opening_store_need_be_there_for_that(club: Club, snapshots: MemorySnapshotStore) -> None:
    """`decide` without `personal` does not keep plain text either."""
    await club.decide(MEMBER, Name("Åda"))
    registry = EventRegistry([MemberNamed, MemberPaid])
    for _ in range(2):
        assert (await decide(club.store, registry, plain_member(), STREAM, Pay(), snapshots=snapshots)).state.name == "Åda"
    assert snapshots.snapshots == ()


async def test_state_that_is_said_to_hold_none_of_it_is_kept(club: Club, snapshots: MemorySnapshotStore) -> None:
    payments = Decider(Payments(), run, evolve_payments, name="payments", snapshots=KEPT_IN_CLEAR)
    await club.decide(payments, Name("Åda"))
    await club.decide(payments, Pay())
    assert [snapshot.state for snapshot in snapshots.snapshots] == ['{"paid":0}']
    # Saying so no longer drops it: nobody would know any more what is in it.
    with structlog.testing.capture_logs() as facts:
        await club.decide(replace(payments, snapshots=SOON), Pay())
    assert [fact["reason"] for fact in facts if fact["event"] == "snapshot_dropped"] == ["shape_changed"]
    assert snapshots.snapshots == ()


async def test_state_whose_marks_were_taken_away_holds_no_ciphertext(club: Club) -> None:
    await club.decide(MEMBER, Name("Åda"))
    await club.decide(MEMBER, Pay())

    class Member(BaseModel, frozen=True):
        """Looks like the other in JSON."""

        member_id: str = ""
        name: str = ""
        paid: int = 0

    unmarked: Decider[object, Any] = Decider(Member(), run, evolve_member, name="member", snapshots=KEPT_IN_CLEAR)
    assert (await club.decide(unmarked, Pay())).state.name == "Åda"


class Marked(BaseModel, frozen=True):
    member: Member = Member()


@dataclass(frozen=True)
class MarkedDataclass:
    member_id: str = ""
    name: Annotated[str, Personal("member_id")] = ""


@pytest.mark.parametrize(
    ("initial_state", "options", "says"),
    [
        (Member(), {"holds_personal_data": False}, "says otherwise"),
        (Marked(), {}, "mark the whole field"),
        (MarkedDataclass(), {}, "cannot seal them"),
        (Member(), {"state_type": Member | Plain}, "cannot seal them"),
        ({}, {"state_type": dict[str, Member]}, "cannot seal them"),
    ],
)
def test_marks_that_snapshots_cannot_keep_are_refused_where_the_decider_is_made(
    initial_state: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Decider(initial_state, run, lambda state, _: state, name="test", snapshots=Snapshots(**options))
    Decider(initial_state, run, lambda state, _: state, name="test")


async def test_marked_state_needs_what_seals_its_snapshots(club: Club, snapshots: MemorySnapshotStore) -> None:
    registry = EventRegistry([MemberNamed, MemberPaid])
    with pytest.raises(UsageError, match="personal=personal_data"):
        await decide(club.store, registry, MEMBER, STREAM, Name("Åda"), snapshots=snapshots)
    assert (await decide(club.store, registry, MEMBER, STREAM, Name("Åda"))).state.name == "Åda", "without snapshots it needs nothing"


# -- the cache


async def test_cached_state_is_used_for_as_long_as_its_keys_and_no_longer(club: Club, keys: MemorySubjectKeys, clock: FakeClock) -> None:
    """The age is the keys', not the entry's: both together would be twice as long."""
    await club.decide(MEMBER, Name("Åda"))
    await club.decide(MEMBER, Pay())
    await keys.forget("ada")
    await clock.advance(KEY_AGE_SECONDS_MAX - 1)
    for _ in range(2):
        assert (await club.decide(MEMBER, Pay(), with_cache=True)).state.name == "Åda", "the key is held still"
    await clock.advance(1.001)
    assert (await club.decide(MEMBER, Pay(), with_cache=True)).state.name == FORGOTTEN


async def test_cached_state_of_events_that_were_not_sealed_is_used_for_ever(club: Club, clock: FakeClock) -> None:
    plain = plain_member()
    await club.decide(plain, Pay())
    await club.decide(plain, Pay(), with_cache=True)
    await clock.advance(100 * KEY_AGE_SECONDS_MAX)
    assert club.cache.get(STREAM, plain) is not None


async def test_what_was_being_folded_when_a_subject_was_forgotten_is_not_cached(
    keys: MemorySubjectKeys, snapshots: MemorySnapshotStore, clock: FakeClock
) -> None:
    club = Club(MemoryEventStore(), keys, snapshots, clock)
    await club.decide(MEMBER, Name("Åda"))
    read, go_on = asyncio.Event(), asyncio.Event()

    class Waiting(PersonalEventStore):
        async def read_stream(self, stream_name: str, **options: Any) -> AsyncIterator[RecordedEvent]:
            async for event in super().read_stream(stream_name, **options):
                yield event
            read.set()
            await go_on.wait()

    quick, club.store = club.store, Waiting(club.store._store, club.personal)
    deciding = asyncio.create_task(club.decide(MEMBER, Pay(), with_cache=True))
    await read.wait()
    await clock.advance(1)
    await club.personal.forget("ada")
    club.cache.clear()
    go_on.set()
    assert (await deciding).state.name == "Åda", "it had read it before"
    club.store = quick
    assert len(club.cache) == 0
    assert (await club.decide(MEMBER, Pay(), with_cache=True)).state.name == FORGOTTEN
