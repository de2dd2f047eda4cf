"""One claimed partition: what was received and not yet committed, and how far its logs got."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum
from itertools import islice
from types import MappingProxyType
from typing import Final
from uuid import UUID

from headwater.bus.dead_letters import storable
from headwater.bus.divisions import TopicDivision
from headwater.bus.failing import FailingMessage
from headwater.bus.lane_marks import NO_MARKS, LaneMarks
from headwater.bus.parked import ParkedKey, ParkedKeys
from headwater.bus.reading import EncodedRecords, RecordReader
from headwater.bus.routes import Handler, Route, Routes
from headwater.bus.values import LastRecord, Move, PartitionLag, PartitionPosition, SourceRecord
from headwater.errors import GapDetected, InvalidEvent, NotAnEnvelope, SchemaError, UnknownEventType
from headwater.kafka import JSON_DECODER, Envelope, OffsetRange, Partition
from headwater.messages import LOG_START, Event, EventRegistry, LogPosition, RecordedEvent
from headwater.privacy import Opener, is_sealed

NO_HANDLERS: Final[tuple[Handler, ...]] = ()
_JSON_RECORDS: Final[RecordReader] = EncodedRecords(JSON_DECODER)
NOBODY: Final[Mapping[str, ParkedKey]] = MappingProxyType({})


class PartitionState(Enum):
    """What may be done with a claimed partition."""

    WORKING = "working"
    WAITING = "waiting"
    """Its first message failed and is due again later."""
    STOPPED = "stopped"
    """A gap, or an error whose policy says so; nothing is applied until it is claimed anew."""
    REVOKED = "revoked"


class Message:
    """One record on its way through the consumer. Without handlers and fault it only moves the position."""

    __slots__ = (
        "_event",
        "_opener",
        "envelope",
        "fault",
        "handlers",
        "lane_handlers",
        "lanes_left",
        "offset",
        "opened",
        "record",
        "route",
        "value_fault",
        "work",
    )

    def __init__(self, work: PartitionWork, record: SourceRecord, envelope: Envelope | None, route: Route | None) -> None:
        self.work, self.record, self.offset = work, record, record.offset
        self.envelope, self.route = envelope, route
        self.handlers: tuple[Handler, ...] = route.batched if route is not None else NO_HANDLERS
        """Those that handle it in a batch."""
        self.lane_handlers: tuple[Handler, ...] = route.laned if route is not None else NO_HANDLERS
        self.lanes_left = len(self.lane_handlers)
        """Lanes that have yet to handle it; the position waits for them."""
        self.fault: NotAnEnvelope | None = None
        """Nobody knows which event it is."""
        self.value_fault: SchemaError | None = None
        """Only its headers could be read."""
        self.opened = envelope
        """What handlers see: the envelope, its personal data open."""
        self._event: Event | None = None
        self._opener: Opener | None = None

    @property
    def key(self) -> str:
        """What its order goes by, as it is stored."""
        assert self.envelope is not None, "only an envelope has a stream"
        return storable(self.envelope.event.stream_name)

    def held_back(self) -> Mapping[str, ParkedKey]:
        """Its handlers, by name, for which its key is parked."""
        if not self.work.parked or not self.handlers:
            return NOBODY
        parked = self.work.parked.of(self.key)
        return {handler.name: parked[handler.name] for handler in self.handlers if handler.name in parked} if parked else NOBODY

    def drop_done(self, marks: LaneMarks) -> None:
        """Leave out the handlers whose lane, or whose lane of former days, handled it."""
        key = self.key
        self.handlers = tuple(handler for handler in self.handlers if not marks.is_done(handler.name, key, self.offset))
        self.lane_handlers = tuple(handler for handler in self.lane_handlers if not marks.is_done(handler.name, key, self.offset))
        self.lanes_left = len(self.lane_handlers)

    @property
    def is_sealed(self) -> bool:
        """Whether it must be opened before its handlers may see it."""
        return self.envelope is not None and self.route is not None and is_sealed(self.envelope.event)

    def open_with(self, opener: Opener) -> None:
        """Let `event` open it; what was opened before is dropped, for its subject may have been forgotten since."""
        self._event, self.opened, self._opener = None, None, opener

    def event(self) -> Event:
        """The typed event, decoded once.

        Raises:
            SchemaError: the value cannot be read.
            UnknownEventType: nobody here knows its class.
            InvalidEvent: the data does not fit the class, or its personal data was altered.
        """
        if self._event is None:
            recorded = self.recorded()
            assert self.route is not None, "only a message with handlers has a class"
            event_class, registry = self.route.event_class, self.work.registry
            try:
                self._event = registry.decode(recorded) if event_class is None else registry.decode_as(event_class, recorded)
            except (InvalidEvent, UnknownEventType):
                raise
            except Exception as error:
                # A validator of the user's class raised what pydantic does not take for a verdict; the data is at fault all the same.
                raise InvalidEvent(f"{recorded.type} could not be built from its data: {error!r}") from error
        return self._event

    def recorded(self) -> RecordedEvent:
        """The event as it is in the log, its personal data open.

        Raises:
            SchemaError: the value cannot be read.
            InvalidEvent: its personal data was altered.
        """
        if self.value_fault is not None:
            raise self.value_fault
        if self._opener is not None and self.opened is None:
            assert self.envelope is not None, "only an envelope can be opened"
            self.opened = replace(self.envelope, event=self._opener(self.envelope.event))
        assert self.opened is not None, "a message with handlers has an envelope"
        return self.opened.event


class PartitionWork:
    """Reads ahead of the committed position; `commit` catches up. Nothing is forgotten before it was committed."""

    def __init__(
        self,
        claimed: PartitionPosition,
        routes: Routes,
        reader: RecordReader = _JSON_RECORDS,
        registry: EventRegistry | None = None,
    ) -> None:
        self.registry: Final = registry or EventRegistry()
        self.partition: Final[Partition] = claimed.partition
        self.position = claimed
        """What the row says."""
        self.pending: deque[Message] = deque()
        self.failing: FailingMessage | None = None
        self.parked = ParkedKeys()
        """Loaded when the partition is claimed."""
        self.has_lanes: Final = routes.has_lanes
        self.lane_marks = NO_MARKS
        self.for_lanes: list[Message] = []
        """Received, and not yet given to their lanes."""
        self.stop_reason: str | None = None
        self.is_revoked = False
        self.divisions: deque[TopicDivision] = deque()
        """Ahead of what was applied here: where the topic was given more partitions."""
        self.held_from: int | None = None
        """The offset of the first record after the first of them; it waits for the other partitions."""
        self.has_told_wait = False
        self.needs_confirmation = False
        """A commit's answer may have been lost: look at the row before going on."""
        self._by_type, self._others, self._reader = routes.by_type, routes.others, reader
        self._read_marks: dict[UUID, LogPosition] = dict(claimed.marks)
        self._next_to_read = claimed.next_offset
        self._to_recognise = claimed.last
        self._committed_timestamp: int | None = None

    @property
    def state(self) -> PartitionState:
        if self.is_revoked:
            return PartitionState.REVOKED
        if self.failing is not None:
            return PartitionState.WAITING if math.isfinite(self.failing.due_at) else PartitionState.STOPPED
        if self.stop_reason is not None and not self.ready(1):
            return PartitionState.STOPPED
        return PartitionState.WORKING

    def lag(self, unread_count: int, now: datetime) -> PartitionLag:
        """How far this is behind, seen how many records were not received yet."""
        oldest = self.pending[0].record.timestamp if self.pending else self._committed_timestamp
        count = len(self.pending) + unread_count
        seconds = max(0.0, now.timestamp() - oldest / 1000) if count and oldest is not None else 0.0
        return PartitionLag(self.partition, count, seconds)

    # -- reading -------------------------------------------------------------------------------------------------------

    def start(self, held: OffsetRange) -> int:
        """From which offset to receive, seen what the partition holds: the last record again, to recognise it.

        Raises:
            GapDetected: what comes next is not there any more, or not there yet.
        """
        next_offset, last = self.position.next_offset, self.position.last
        if held.end < next_offset:
            raise GapDetected(
                f"{self.partition} ends at offset {held.end}, but was applied up to {next_offset}: it was recreated or lost its tail. "
                "Restore it, or remove the group's row to start over"
            )
        if next_offset == 0:
            self._next_to_read = held.first
            return held.first
        if held.first > next_offset:
            raise GapDetected(
                f"{self.partition} begins at offset {held.first}, but offset {next_offset} comes next: records were deleted before they were applied"
            )
        if last is None or last.offset < held.first:
            self._to_recognise = None
            return next_offset
        return last.offset

    def accept(self, records: Iterable[SourceRecord]) -> None:
        """Take records that were received, in order.

        Raises:
            GapDetected: records before one of them are missing; what came before it was taken.
        """
        for record in records:
            if record.offset < self._next_to_read:
                self._recognise(record)
                continue
            if self._to_recognise is not None:
                self._refuse_unrecognised(f"offset {self._to_recognise.offset} is gone")
            message = self._read(record)
            self.pending.append(message)
            self._next_to_read = record.offset + 1
            if self.divisions:
                self._let_pass(message)
            elif message.lanes_left:
                self.for_lanes.append(message)

    def _let_pass(self, message: Message) -> None:
        """Give it to its lanes, unless it is behind a division that the group has not passed."""
        envelope = message.envelope
        if self.held_from is None and self.divisions and envelope is not None:
            self.held_from = message.offset if self.divisions[0].is_behind(envelope.log_id, envelope.position) else None
        if message.lanes_left and self.held_from is None:
            self.for_lanes.append(message)

    def lift(self) -> None:
        """The group has passed the first division: go on to the next one."""
        held_from, self.held_from, self.has_told_wait = self.held_from, None, False
        self.divisions.popleft()
        for message in self.pending:
            if held_from is not None and message.offset >= held_from:
                self._let_pass(message)

    def _recognise(self, record: SourceRecord) -> None:
        last = self._to_recognise
        if last is None or record.offset < last.offset:
            return
        if record.offset > last.offset:
            self._refuse_unrecognised(f"offset {last.offset} is gone")
        found = self._reader.provenance(record)
        if found is None:
            self._refuse_unrecognised(f"offset {last.offset} holds a foreign record")
        elif (found.log_id, found.position) != (last.log_id, last.position):
            self._refuse_unrecognised(f"offset {last.offset} holds position {found.position} of log {found.log_id}")
        elif last.event_id is not None and found.event_id != last.event_id:
            self._refuse_unrecognised(f"it is the event {found.event_id} now, and was {last.event_id}")
        self._to_recognise = None

    def _refuse_unrecognised(self, found: str) -> None:
        last = self._to_recognise
        assert last is not None, "called while there is a record to recognise"
        raise GapDetected(
            f"{self.partition} is not what was read before: offset {last.offset} was position {last.position} of log {last.log_id}, "
            f"but {found}. It was recreated or lost its tail; restore it, or remove the group's row to start over"
        )

    def _read(self, record: SourceRecord) -> Message:
        message = self.decode(record)
        if message.envelope is not None and not self._is_new(record, message.envelope):
            return Message(self, record, message.envelope, None)
        if record.offset <= self.lane_marks.highest and message.route is not None:
            message.drop_done(self.lane_marks)
        return message

    def decode(self, record: SourceRecord) -> Message:
        """What a record holds, wherever it comes from."""
        envelope, route, fault, value_fault = self._reader.read(record, self._route_of)
        if envelope is None:
            message = Message(self, record, None, None)
            message.fault = fault
            return message
        message = Message(self, record, envelope, route)
        message.value_fault = value_fault
        return message

    def _route_of(self, event_type: str) -> Route | None:
        return self._by_type.get(self.registry.current_type(event_type), self._others)

    def _is_new(self, record: SourceRecord, envelope: Envelope) -> bool:
        """Whether the event was not seen before; then it is now.

        Raises:
            GapDetected: what came before it was not seen either.
        """
        mark = self._read_marks.get(envelope.log_id, LOG_START)
        if envelope.position <= mark:
            return False
        if mark < envelope.previous:
            raise GapDetected(
                f"{self.partition} offset {record.offset} follows position {envelope.previous} of log {envelope.log_id}, but only {mark} was seen: "
                "records in between are missing. Restore the topic, then restart the consumer"
            )
        self._read_marks[envelope.log_id] = envelope.position
        return True

    # -- working -------------------------------------------------------------------------------------------------------

    def may_apply(self, offset: int) -> bool:
        """Whether this message can be worked on now, in a batch."""
        return not self.is_revoked and not self.needs_confirmation and (self.failing is None or offset < self.failing.offset)

    def ready(self, limit: int) -> Sequence[Message]:
        """The next messages to apply, in order; those before a failing one, when there is one."""
        if self.is_revoked or self.needs_confirmation:
            return ()
        found = tuple(islice(self.pending, limit))
        if self.failing is None and not self.has_lanes and self.held_from is None:
            return found
        for place, message in enumerate(found):
            if (
                message.lanes_left
                or (self.failing is not None and message.offset >= self.failing.offset)
                or message.offset == self.held_from
            ):
                return found[:place]
        return found

    def due(self, moment: float) -> Message | None:
        """The failing message, when it is its turn and time."""
        if self.is_revoked or self.needs_confirmation or self.failing is None or not self.pending or self.failing.due_at > moment:
            return None
        first = self.pending[0]
        return first if first.offset == self.failing.offset else None

    def position_after(self, offset: int) -> PartitionPosition:
        """The row once everything up to this offset is applied."""
        marks, last = dict(self.position.marks), self.position.last
        latest: Message | None = None
        for message in self.pending:
            if message.offset > offset:
                break
            envelope = message.envelope
            if envelope is not None:
                latest = message
                if envelope.position > marks.get(envelope.log_id, LOG_START):
                    marks[envelope.log_id] = envelope.position
        if latest is not None and (envelope := latest.envelope) is not None:
            last = LastRecord(latest.offset, envelope.log_id, envelope.position, envelope.event.event_id)
        return PartitionPosition(self.partition, self.position.epoch, offset + 1, marks, last)

    def move_to(self, offset: int) -> Move:
        """The step of the row that applies everything up to this offset."""
        return Move(self.position, self.position_after(offset))

    def commit(self, position: PartitionPosition) -> None:
        """The row says so now; forget what it covers."""
        while self.pending and self.pending[0].offset < position.next_offset:
            self._committed_timestamp = self.pending.popleft().record.timestamp
        self.position = position
        if self.failing is not None and self.failing.offset < position.next_offset:
            self.failing = None
