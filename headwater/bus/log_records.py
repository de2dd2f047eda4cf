"""Events of the log as a consumer's records: nothing is encoded on the way, for they are decoded already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from headwater.bus.reading import EncodedRecords, FindsRoute, Reading
from headwater.bus.values import SourceRecord
from headwater.kafka import JSON_DECODER, Envelope, Partition, Provenance, Record, encode_envelope
from headwater.messages import LOG_START, LogPosition, RecordedEvent

LOG_TOPIC_PREFIX: Final = "log:"
"""No Kafka topic has a colon in its name, so positions in the log and positions in topics never meet."""
FIRST_OFFSET: Final = 1
"""An offset in the log is a global position; those begin at 1."""
_SOURCE: Final = "/log"
_NO_MOMENT: Final = datetime.fromtimestamp(0, UTC)


def log_topic(category: str) -> str:
    """What positions and dead letters call the log's events of one category."""
    return f"{LOG_TOPIC_PREFIX}{category}"


class LogRecord:
    """One event of the log on its way to a partition. What a broker would hold of it is made only when somebody asks."""

    __slots__ = ("_made", "envelope", "is_wanted", "offset", "partition", "topic")

    def __init__(self, partition: Partition, envelope: Envelope, *, is_wanted: bool = True) -> None:
        """Take an event to a partition; one that is not wanted there only says how far the log was read."""
        self.topic, self.partition = partition
        self.envelope, self.is_wanted = envelope, is_wanted
        self.offset = envelope.position.global_position
        self._made: Record | None = None

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970."""
        return self._encoded[3]

    @property
    def key(self) -> bytes:
        return self._encoded[0]

    @property
    def value(self) -> bytes:
        return self._encoded[1]

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        return self._encoded[2]

    @property
    def _encoded(self) -> Record:
        if self._made is None:
            self._made = encode_envelope(self.envelope, source=_SOURCE)
        return self._made


def mark_record(partition: Partition, log_id: UUID, position: LogPosition, event_id: UUID) -> LogRecord:
    """Tells a partition that the log was read up to this event, which is not its own, or not known further."""
    event = RecordedEvent(
        global_position=position.global_position,
        stream_name="",
        version=0,
        type="",
        data="",
        metadata={},
        event_id=event_id,
        recorded_at=_NO_MOMENT,
    )
    return LogRecord(partition, Envelope(event, log_id, position, LOG_START), is_wanted=False)


class LogRecords:
    """A `RecordReader` of the log's own records, and of those that were kept as a broker would hold them, and come back from there."""

    def __init__(self) -> None:
        self._kept = EncodedRecords(JSON_DECODER)

    async def prepare(self, records: Iterable[SourceRecord]) -> None:
        """Nothing to do."""

    def provenance(self, record: SourceRecord) -> Provenance | None:
        """Which event of which log it is."""
        if not isinstance(record, LogRecord):
            return self._kept.provenance(record)
        envelope = record.envelope
        return Provenance(envelope.log_id, envelope.position, envelope.event.event_id)

    def read(self, record: SourceRecord, find_route: FindsRoute) -> Reading:
        """The event as it was read."""
        if not isinstance(record, LogRecord):
            return self._kept.read(record, find_route)
        return Reading(record.envelope, find_route(record.envelope.event.type) if record.is_wanted else None)
