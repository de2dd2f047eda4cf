"""Events with personal fields, for tests."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field

from headwater.messages import Event, NewEvent, RecordedEvent
from headwater.personal import Personal


class Address(BaseModel):
    street: str
    floors: tuple[int, ...] = ()


class GuestArrived(Event):
    guest_id: str
    name: Annotated[str, Personal("guest_id")]
    visits: Annotated[int, Personal("guest_id", redacted=-1)] = 0
    owes: Annotated[Decimal, Personal("guest_id", redacted=Decimal(-1))] = Decimal(0)
    born_on: Annotated[date, Personal("guest_id", redacted=date.min)] = date(2000, 1, 1)
    seen_at: Annotated[datetime, Personal("guest_id", redacted=datetime(1, 1, 1, tzinfo=UTC))] = datetime(2020, 1, 1, tzinfo=UTC)
    tags: Annotated[list[str], Personal("guest_id", redacted=[])] = Field(default_factory=list)
    address: Annotated[Address, Personal("guest_id", redacted=Address(street="[forgotten]"))] = Address(street="")
    email: Annotated[str | None, Personal("guest_id")] = None
    scores: Annotated[dict[str, float] | None, Personal("guest_id", redacted=None)] = None
    host_id: int = 7
    host_note: Annotated[str, Personal("host_id")] = ""
    room: str = ""
    price: Decimal = Decimal(0)


class RoomCleaned(Event, category="guest"):
    room: str


def recorded(new: NewEvent, position: int = 1) -> RecordedEvent:
    """The event as the log would give it back."""
    return RecordedEvent(position, "guest-1", position, new.type, new.data, new.metadata, new.event_id, datetime(2026, 1, 1, tzinfo=UTC))
