"""Sealing and opening: exactly what was given comes back, until its subject is forgotten."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from headwater.errors import InvalidEvent, SealBroken, StorageUnavailable, SubjectForgotten, UnknownEventType
from headwater.messages import SEALED_FIELDS, Event, EventRegistry, NewEvent, RecordedEvent
from headwater.personal import personal_fields_of
from headwater.privacy import KEY_AGE_SECONDS_MAX, REDACTING, PersonalData, open_event
from headwater.testing import FakeClock, MemorySubjectKeys
from tests.unit.privacy.people import Address, GuestArrived, RoomCleaned, recorded

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
PREFIXED = st.one_of(TEXT, TEXT.map(lambda text: f"headwater:sealed:1:{text}"), st.just('", "room": "stolen'))
GUESTS = st.builds(
    GuestArrived,
    guest_id=PREFIXED.filter(lambda text: 0 < len(text) <= 500),
    name=PREFIXED,
    visits=st.integers(-(10**30), 10**30),
    owes=st.decimals(allow_nan=False, allow_infinity=False),
    born_on=st.dates(),
    seen_at=st.datetimes(timezones=st.just(UTC)),
    tags=st.lists(PREFIXED),
    address=st.builds(Address, street=PREFIXED, floors=st.lists(st.integers()).map(tuple)),
    email=st.none() | PREFIXED,
    scores=st.none() | st.dictionaries(TEXT, st.floats(allow_nan=False)),
    host_note=PREFIXED,
    room=PREFIXED,
    price=st.decimals(allow_nan=False, allow_infinity=False),
)


def new_data(**given: object) -> tuple[PersonalData, MemorySubjectKeys]:
    keys = MemorySubjectKeys()
    return PersonalData(keys, EventRegistry([GuestArrived, RoomCleaned]), **given), keys  # type: ignore[arg-type]


async def seal_one(personal: PersonalData, event: Event | NewEvent) -> NewEvent:
    (sealed,) = await personal.seal([event])
    assert isinstance(sealed, NewEvent)
    return sealed


@given(GUESTS)
async def test_what_is_sealed_comes_back_exactly(guest: GuestArrived) -> None:
    personal, _ = new_data()
    plain = NewEvent.of(guest)
    sealed = await seal_one(personal, plain)
    stored = json.loads(sealed.data)
    for name in ("name", "visits", "owes", "born_on", "seen_at", "tags", "address", "host_note"):
        assert stored[name].startswith("headwater:sealed:1:")
    assert (stored["room"], stored["guest_id"]) == (guest.room, guest.guest_id)
    (opened,) = await personal.open([recorded(sealed)])
    assert opened.data == plain.data
    assert opened.metadata == plain.metadata, "the mark of sealed fields is gone again"
    assert GuestArrived.model_validate_json(opened.data) == guest


async def test_nothing_personal_is_left_in_what_is_stored() -> None:
    personal, _ = new_data()
    guest = GuestArrived(guest_id="g", name="Åda Lovelace", tags=["countess"], address=Address(street="St James"), host_note="kind")
    sealed = await seal_one(personal, guest)
    for secret in ("Åda", "Lovelace", "countess", "James", "kind"):
        assert secret not in sealed.data
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in sealed.data
        assert secret not in str(dict(sealed.metadata))
    again = await seal_one(personal, guest)
    assert json.loads(again.data)["name"] != json.loads(sealed.data)["name"], "equal values do not look equal"


async def test_numbers_of_other_fields_keep_their_digits() -> None:
    """Nothing but the personal values is touched."""
    personal, _ = new_data()
    data = '{ "guest_id" : "g",\n"name":"Åda", "price": 1.10000000000000000000000001e+3 , "more": [1.0, {"n\\u0061me": 12345678901234567890}] }'
    sealed = await seal_one(personal, NewEvent("GuestArrived", data))
    assert sealed.data.startswith('{ "guest_id" : "g",\n"name":"headwater:sealed:1:')
    assert sealed.data.endswith(', "price": 1.10000000000000000000000001e+3 , "more": [1.0, {"n\\u0061me": 12345678901234567890}] }')
    assert (await personal.open([recorded(sealed)]))[0].data == data


async def test_a_name_written_with_escapes_is_sealed_like_any() -> None:
    personal, _ = new_data()
    sealed = await seal_one(personal, NewEvent("GuestArrived", '{"guest_id": "g", "n\\u0061me": "Åda", "name": "Åda"}'))
    assert "Åda" not in sealed.data


async def test_what_is_forgotten_comes_redacted_and_the_rest_stays() -> None:
    personal, keys = new_data()
    guest = GuestArrived(
        guest_id="g", name="Åda", visits=3, owes=Decimal("4.50"), tags=["x"], host_note="kind", room="12", price=Decimal("9.9")
    )
    other = GuestArrived(guest_id="h", name="Bo")
    sealed = [recorded(cast("NewEvent", event)) for event in await personal.seal([guest, other])]
    fact = await personal.forget("g")
    assert fact is not None
    assert not fact.was_forgotten
    opened = [GuestArrived.model_validate_json(event.data) for event in await personal.open(sealed)]
    redacted = {"name": "[forgotten]", "visits": -1, "owes": Decimal(-1), "tags": [], "address": Address(street="[forgotten]")}
    assert {name: getattr(opened[0], name) for name in redacted} == redacted
    assert opened[0].email is None, "what was never there is not redacted"
    assert (opened[0].host_note, opened[0].room, opened[0].price) == ("kind", "12", Decimal("9.9"))
    assert opened[1] == other
    again = await personal.forget("g")
    assert again is not None
    assert (again.was_forgotten, again.forgotten_at) == (True, fact.forgotten_at)
    assert [each.subject for each in await personal.forgotten()] == ["g"]
    assert await personal.forget("nobody") is None
    assert keys.by_id


async def test_data_of_a_forgotten_subject_is_refused_but_its_redaction_is_not() -> None:
    """A handler or saga that goes on with a redacted event must not get stuck over it."""
    personal, _ = new_data()
    guest = GuestArrived(guest_id="g", name="Åda", email="ada@example.org")
    sealed = recorded(await seal_one(personal, guest))
    await personal.forget("g")
    with pytest.raises(SubjectForgotten, match=r"personal data of 'g' in 'name', who was forgotten at .*nothing was stored") as caught:
        await personal.seal([guest])
    assert (caught.value.subject, caught.value.field) == ("g", "name")
    (opened,) = await personal.open([sealed])
    redacted = GuestArrived.model_validate_json(opened.data)
    again = await seal_one(personal, redacted)
    assert SEALED_FIELDS in again.metadata, "the host's note is sealed as ever"
    assert json.loads(again.metadata[SEALED_FIELDS]) == ["host_note"]
    assert json.loads(again.data)["name"] == "[forgotten]"


async def test_a_sealed_event_passes_unchanged_and_what_it_lacks_is_sealed() -> None:
    personal, _ = new_data()
    sealed = await seal_one(personal, GuestArrived(guest_id="g", name="Åda"))
    assert await seal_one(personal, sealed) == sealed
    half = replace(sealed, data=sealed.data.replace('"email":null', '"email":"ada@example.org"'))
    whole = await seal_one(personal, half)
    assert "ada@" not in whole.data
    (opened,) = await personal.open([recorded(whole)])
    assert GuestArrived.model_validate_json(opened.data).email == "ada@example.org"


async def test_text_that_looks_sealed_is_text() -> None:
    """A person may type anything, also what another field holds in the database."""
    personal, _ = new_data()
    stolen = json.loads((await seal_one(personal, GuestArrived(guest_id="h", name="Bo"))).data)["name"]
    guest = GuestArrived(guest_id="g", name=stolen, room=stolen)
    (opened,) = await personal.open([recorded(await seal_one(personal, guest))])
    assert GuestArrived.model_validate_json(opened.data) == guest


async def test_sealed_values_that_were_altered_or_moved_are_told_not_passed_on() -> None:
    personal, keys = new_data()
    sealed = recorded(await seal_one(personal, GuestArrived(guest_id="g", name="Åda", email="Åda")))
    fields = json.loads(sealed.data)
    parts = fields["name"].split(":")
    bad_redaction = base64.b64encode(b'"x", "room": "stolen"').decode()
    altered = [
        {"name": fields["email"]},
        {"name": ":".join([*parts[:3], parts[3][:-8] + "AAAAAAA=", parts[4]])},
        {"name": ":".join([*parts[:4], bad_redaction])},
        {"name": ":".join([*parts[:4], base64.b64encode(b'"other"').decode()])},
        {"name": ":".join(parts[:4])},
        {"name": "headwater:sealed:1:%:%"},
        {"name": "headwater:sealed:1:AAAA:MQ=="},
    ]
    for change in altered:
        broken = replace(sealed, data=json.dumps(fields | change))
        opener = await personal.opener([broken])
        with pytest.raises(SealBroken, match=r"'name' in GuestArrived .*GuestArrived at position 1 of 'guest-1'"):
            opener(broken)
        # Readers of the log go on; who wants this very event is told.
        assert (await personal.open([broken, sealed]))[0] == broken
        with pytest.raises(SealBroken, match="GuestArrived at position 1 of 'guest-1' is sealed still"):
            EventRegistry([GuestArrived]).decode(broken)
        with pytest.raises(InvalidEvent):
            await personal.seal([NewEvent("GuestArrived", broken.data, metadata=broken.metadata)])
    with pytest.raises(SealBroken):
        open_event(replace(sealed, type="GuestLeft"), keys.by_id)
    with pytest.raises(SealBroken, match="names no fields"):
        open_event(replace(sealed, metadata={SEALED_FIELDS: "name"}), keys.by_id)


async def test_a_reader_without_the_key_gets_the_redaction_whatever_its_classes_know() -> None:
    personal, keys = new_data()
    sealed = recorded(await seal_one(personal, GuestArrived(guest_id="g", name="Åda", visits=3)))
    for stranger in (PersonalData(MemorySubjectKeys()), REDACTING):
        opener = await stranger.opener([sealed])
        assert json.loads(opener(sealed).data)["visits"] == -1
    informed = PersonalData(MemorySubjectKeys(), key_source=keys)
    assert json.loads((await informed.open([sealed]))[0].data)["visits"] == 3


async def test_another_services_key_is_never_used_to_seal() -> None:
    personal, keys = new_data()
    foreign = recorded(await seal_one(personal, GuestArrived(guest_id="g", name="Åda")))
    own_keys = MemorySubjectKeys()
    informed = PersonalData(own_keys, EventRegistry([GuestArrived]), key_source=keys)
    await informed.open([foreign])
    own = recorded(await seal_one(informed, GuestArrived(guest_id="g", name="Åda")))
    assert json.loads(PersonalDataOf(own_keys).open_one(own).data)["name"] == "Åda"


class PersonalDataOf:
    """Opens with these keys alone."""

    def __init__(self, keys: MemorySubjectKeys) -> None:
        self._keys = keys

    def open_one(self, event: RecordedEvent) -> RecordedEvent:
        return self._keys.open([event])[0]


@pytest.mark.parametrize("subject", ["null", '""', "true", "1.5", "[]", f'"{"x" * 501}"', '"a\\u0000"'])
async def test_personal_data_without_a_subject_is_refused(subject: str) -> None:
    personal, _ = new_data()
    with pytest.raises(InvalidEvent, match="'guest_id' does not say whose"):
        await personal.seal([NewEvent("GuestArrived", f'{{"guest_id": {subject}, "name": "Åda"}}')])
    nothing = NewEvent("GuestArrived", f'{{"guest_id": {subject}, "name": null}}')
    assert (await seal_one(personal, nothing)).data == nothing.data


@pytest.mark.parametrize("data", ["[]", "", "{", '{"name": }', '{"name"}', "x", '{"name": "Åda\\u0000", "guest_id": "g"}', "[" * 100_000])
async def test_json_that_is_no_event_is_refused(data: str) -> None:
    personal, _ = new_data()
    with pytest.raises(InvalidEvent):
        await personal.seal([NewEvent("GuestArrived", data)])


async def test_events_without_personal_data_and_wrong_input_pass_as_they_came() -> None:
    personal, keys = new_data()
    events = [RoomCleaned(room="12"), NewEvent("Anything", "[]")]
    assert await personal.seal(events) is events
    for wrong in (RoomCleaned(room="12"), "text", None, {"a": 1}):
        assert await personal.seal(wrong) is wrong  # type: ignore[arg-type]
    stored = [recorded(NewEvent.of(RoomCleaned(room="12")))]
    assert await personal.open(stored) is stored
    assert keys.ask_count == 0


async def test_a_name_that_two_classes_share_must_be_registered() -> None:
    class GuestGreeted(GuestArrived):
        pass

    first = GuestGreeted
    exec("class GuestGreeted(Base):\n    pass", {"Base": RoomCleaned, "__name__": "elsewhere"})
    personal = PersonalData(MemorySubjectKeys())
    data = '{"guest_id": "g", "name": "Åda"}'
    with pytest.raises(UnknownEventType, match="several event classes are named GuestGreeted"):
        await personal.seal([NewEvent("GuestGreeted", data)])
    assert "Åda" not in (await seal_one(personal, first(guest_id="g", name="Åda"))).data
    assert "Åda" not in (await seal_one(PersonalData(MemorySubjectKeys(), EventRegistry([first])), NewEvent("GuestGreeted", data))).data


# -- keys in this process -----------------------------------------------------------------------------------------------


async def test_a_key_is_asked_for_once_until_it_is_too_old() -> None:
    clock = FakeClock()
    keys = MemorySubjectKeys()
    personal = PersonalData(keys, clock=clock)
    sealed = recorded(await seal_one(personal, GuestArrived(guest_id="g", name="Åda")))
    assert keys.ask_count == 1
    await personal.open([sealed])
    await personal.seal([GuestArrived(guest_id="g", name="Åda")])
    assert keys.ask_count == 1
    await keys.forget("g")  # another process does
    assert json.loads((await personal.open([sealed]))[0].data)["name"] == "Åda"
    await clock.advance(KEY_AGE_SECONDS_MAX + 0.001)
    assert json.loads((await personal.open([sealed]))[0].data)["name"] == "[forgotten]"
    with pytest.raises(SubjectForgotten):
        await personal.seal([GuestArrived(guest_id="g", name="Åda")])


async def test_forgetting_takes_effect_at_once_where_it_is_done_even_beside_a_question_under_way() -> None:
    import asyncio

    personal, keys = new_data()
    sealed = recorded(await seal_one(personal, GuestArrived(guest_id="g", name="Åda")))
    await personal.close()
    asking = asyncio.create_task(cast("asyncio.Future[object]", personal.open([sealed])))  # type: ignore[arg-type]
    await asyncio.sleep(0)  # it has the old key's answer on the way
    await personal.forget("g")
    await asking
    assert json.loads((await personal.open([sealed]))[0].data)["name"] == "[forgotten]"
    assert keys.ask_count >= 3


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.privacy.keys.KEYS_CACHED_MAX", 20)
    personal, keys = new_data()
    guests = [GuestArrived(guest_id=str(number), name="x") for number in range(25)]
    await personal.seal(guests)
    await personal.seal(guests)
    assert keys.ask_count == 2, "those that had no room are asked for again"
    for shelf in (personal._cache._by_subject, personal._cache._by_id):
        assert len(shelf._held) == 20


async def test_without_keys_nothing_is_passed_on() -> None:
    personal, keys = new_data()
    sealed = recorded(await seal_one(personal, GuestArrived(guest_id="g", name="Åda")))
    await personal.close()
    keys.is_reachable = False
    with pytest.raises(StorageUnavailable):
        await personal.open([sealed])
    with pytest.raises(StorageUnavailable):
        await personal.seal([GuestArrived(guest_id="g", name="Åda")])


async def test_opened_event_says_how_old_its_oldest_key_is() -> None:
    """Who keeps plain text goes by it: it must not outlive the keys."""
    clock = FakeClock()
    personal, _ = new_data(clock=clock)
    first, second = [
        recorded(await seal_one(personal, GuestArrived(guest_id=guest_id, name="Åda", host_id=host_id)))
        for guest_id, host_id in (("g", 7), ("h", 8))
    ]
    clear = recorded(NewEvent.of(RoomCleaned(room="12")))
    await personal.close()
    await clock.advance(1)
    assert (await personal.open([first]))[0].keys_asked_at == 1
    await clock.advance(2)
    assert [event.keys_asked_at for event in await personal.open([second, clear])] == [3, None]
    assert [event.keys_asked_at for event in await personal.open([first, second])] == [1, 1]
    opener = await personal.opener([second])
    assert (opener(second).keys_asked_at, opener(clear).keys_asked_at) == (3, None)
    await clock.advance(KEY_AGE_SECONDS_MAX - 1)
    assert [event.keys_asked_at for event in await personal.open([first, second])] == [3, 3], "the older key was asked for anew, later"


# -- states ---------------------------------------------------------------------------------------------------------------


async def test_a_state_is_sealed_by_the_same_marks() -> None:
    class GuestState(BaseModel):
        guest_id: str = ""
        name: Address | str = ""
        visits: int = 0

    from typing import Annotated

    from headwater.personal import Personal

    class MarkedState(GuestState):
        name: Annotated[str, Personal("guest_id")] = ""

    personal, _ = new_data()
    plain = MarkedState(guest_id="g", name="Åda", visits=2)
    text = await personal.seal_state(MarkedState, plain.model_dump_json())
    assert "Åda" not in text
    opened = await personal.open_state(MarkedState, text)
    assert (MarkedState.model_validate_json(opened.text), opened.is_redacted) == (plain, False)
    unmarked = GuestState(guest_id="g", name="Åda").model_dump_json()
    assert await personal.seal_state(GuestState, unmarked) == unmarked
    assert await personal.open_state(GuestState, unmarked) == (unmarked, None, False)
    await personal.forget("g")
    opened = await personal.open_state(MarkedState, text)
    assert (MarkedState.model_validate_json(opened.text).name, opened.is_redacted) == ("[forgotten]", True)
    with pytest.raises(SubjectForgotten):
        await personal.seal_state(MarkedState, plain.model_dump_json())
    assert personal_fields_of(GuestState) is None


def test_the_redaction_moment_can_be_read() -> None:
    fields = personal_fields_of(GuestArrived)
    assert fields is not None
    assert json.loads(fields.by_name["seen_at"].redacted) == datetime(1, 1, 1, tzinfo=UTC).isoformat().replace("+00:00", "Z")
