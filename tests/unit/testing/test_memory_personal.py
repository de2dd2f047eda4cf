"""Personal data in a service in memory: sealed in its log, open in its handlers, redacted once forgotten."""

from __future__ import annotations

from typing import Annotated

from headwater.bus import Context
from headwater.messages import Event
from headwater.personal import Personal
from headwater.privacy import KEY_AGE_SECONDS_MAX
from headwater.projections import Projection, on
from headwater.service import Service
from headwater.testing import FakeClock, memory_service
from tests.unit.eventstore.members import MEMBER, STREAM, Name, Pay


class LetterSent(Event, category="letter"):
    person: str
    text: Annotated[str, Personal("person")]
    copies: int = 0


def post() -> tuple[Service, type[Projection], list[str]]:
    service = Service("post")
    seen: list[str] = []

    @service.on(LetterSent)
    async def copy(event: LetterSent, context: Context) -> None:
        seen.append(event.text)
        read = [context.decode(recorded) async for recorded in context.read_stream(context.stream_name)]
        assert event in read
        if event.copies:
            await context.append("letter-copy", event.model_copy(update={"copies": event.copies - 1}))
            await context.publish(event.model_copy(update={"copies": 0}))

    @service.projection
    class Texts(Projection, key="person"):
        text: str = ""

        @on(LetterSent)
        def sent(self, event: LetterSent) -> None:
            self.text = event.text

    return service, Texts, seen


async def test_a_service_in_memory_seals_opens_and_forgets() -> None:
    service, texts, seen = post()
    async with memory_service(service) as memory:
        await service.store.append("letter-1", [LetterSent(person="p", text="Dear Åda", copies=2)], expected_version=0)
        await memory.settle()
        assert seen == ["Dear Åda"] * 5
        assert all("Åda" not in recorded.data and "headwater:sealed:1:" in recorded.data for recorded in memory.recorded)
        assert {event.text for event in memory.events if isinstance(event, LetterSent)} == {"Dear Åda"}
        assert len(memory.stream("letter-copy")) == 2
        row = await service.read(texts, "p")
        assert row is not None
        assert row.model_dump() == {"text": "Dear Åda"}

        assert await service.forget("p") is not None
        assert {event.text for event in memory.events if isinstance(event, LetterSent)} == {"[forgotten]"}
        row = await service.read(texts, "p")
        assert row is not None
        assert row.model_dump() == {"text": "[forgotten]"}


async def test_a_handler_that_is_late_gets_the_redaction_and_goes_on_with_it() -> None:
    service, _, seen = post()
    async with memory_service(service) as memory:
        parts = service.open_parts()
        await parts.personal.seal([LetterSent(person="p", text="Dear Åda")])
        sealed = await parts.personal.seal([LetterSent(person="p", text="Dear Åda", copies=1)])
        await service.forget("p")
        await service.store.append("letter-1", sealed, expected_version=0)
        await memory.settle()
        assert set(seen) == {"[forgotten]"}
        assert len(seen) == 3
        assert memory.dead_letters == ()


async def test_deciding_in_a_service_in_memory_seals_snapshots_and_forgets_its_cache() -> None:
    service = Service("club", cached_streams_max=10)
    async with memory_service(service):
        await service.decide(STREAM, Name("Åda"), MEMBER)
        assert (await service.decide(STREAM, Pay(), MEMBER)).state.name == "Åda"
        parts = service.open_parts()
        assert parts.stream_cache is not None
        assert len(parts.stream_cache) == 1
        (snapshot,) = parts.snapshots.snapshots  # type: ignore[attr-defined]
        assert "headwater:sealed:1:" in snapshot.state
        await service.forget("ada")
        assert len(parts.stream_cache) == 0
        for _ in range(2):
            assert (await service.decide(STREAM, Pay(), MEMBER)).state.name == "[forgotten]"


async def test_what_was_forgotten_elsewhere_is_forgotten_in_the_cache_in_time() -> None:
    clock, service = FakeClock(), Service("club", cached_streams_max=10)
    async with memory_service(service, clock=clock):
        for command in (Name("Åda"), Pay()):
            await service.decide(STREAM, command, MEMBER)
        await service.open_parts().personal._keys.forget("ada")
        await clock.advance(KEY_AGE_SECONDS_MAX)
        assert (await service.decide(STREAM, Pay(), MEMBER)).state.name == "Åda"
        await clock.advance(0.001)
        assert (await service.decide(STREAM, Pay(), MEMBER)).state.name == "[forgotten]"
