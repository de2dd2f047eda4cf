"""A stream with personal data and what decides on it, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import BaseModel

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.eventstore import Decider, Decision, EventStore, PersonalEventStore, Snapshots, SnapshotStore, StreamCache, decide
from headwater.messages import Event, EventRegistry
from headwater.personal import Personal
from headwater.postgres import Connection
from headwater.privacy import PersonalData, SubjectKeys

STREAM = "member-1"
State = TypeVar("State")


class MemberNamed(Event, category="member"):
    member_id: str
    name: Annotated[str, Personal("member_id")]


class MemberPaid(Event, category="member"):
    amount: int


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Pay:
    amount: int = 1


class Member(BaseModel, frozen=True):
    member_id: str = ""
    name: Annotated[str, Personal("member_id")] = ""
    paid: int = 0


class Greeted(BaseModel, frozen=True):
    """Holds what its own redaction does not look like."""

    member_id: str = ""
    greeting: Annotated[str, Personal("member_id")] = ""


class Plain(BaseModel, frozen=True):
    """Holds personal data, and says nothing of it."""

    member_id: str = ""
    name: str = ""
    paid: int = 0


class Payments(BaseModel, frozen=True):
    paid: int = 0


def run(command: object, _state: object) -> list[Event]:
    return [MemberNamed(member_id="ada", name=command.name)] if isinstance(command, Name) else [MemberPaid(amount=1)]


def evolve_member(state: Member, event: Event) -> Member:
    match event:
        case MemberNamed():
            return state.model_copy(update={"member_id": event.member_id, "name": event.name})
        case _:
            return state.model_copy(update={"paid": state.paid + 1})


def evolve_greeted(state: Greeted, event: Event) -> Greeted:
    return Greeted(member_id=event.member_id, greeting=f"Hello {event.name}") if isinstance(event, MemberNamed) else state


def evolve_plain(state: Plain, event: Event) -> Plain:
    match event:
        case MemberNamed():
            return state.model_copy(update={"member_id": event.member_id, "name": event.name})
        case _:
            return state.model_copy(update={"paid": state.paid + 1})


def evolve_payments(state: Payments, event: Event) -> Payments:
    return Payments(paid=state.paid + isinstance(event, MemberPaid))


SOON = Snapshots(every=1)
MEMBER = Decider(Member(), run, evolve_member, name="member", snapshots=SOON)
GREETED = Decider(Greeted(), run, evolve_greeted, name="greeted", snapshots=SOON)
KEPT_IN_CLEAR = Snapshots(every=1, holds_personal_data=False)


def plain_member() -> Decider[object, Plain]:
    """A new one each time: what it says in the log, it says once."""
    return Decider(Plain(), run, evolve_plain, name="plain", snapshots=SOON)


class Club:
    """A process with keys, a cache and a clock of its own, beside a log and its snapshots."""

    def __init__(self, log: EventStore, keys: SubjectKeys, snapshots: SnapshotStore, clock: Clock = SYSTEM_CLOCK) -> None:
        self.personal = PersonalData(keys, EventRegistry([MemberNamed, MemberPaid]), clock=clock)
        self.store, self.snapshots = PersonalEventStore(log, self.personal), snapshots
        self.cache = StreamCache(clock=clock)

    async def decide(
        self,
        decider: Decider[object, State],
        command: object,
        *,
        with_cache: bool = False,
        stream_name: str = STREAM,
        connection: Connection | None = None,
    ) -> Decision[State]:
        return await decide(
            self.store,
            EventRegistry([MemberNamed, MemberPaid]),
            decider,
            stream_name,
            command,
            connection=connection,
            snapshots=self.snapshots,
            personal=self.personal,
            cache=self.cache if with_cache else None,
        )
