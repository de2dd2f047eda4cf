"""A log as an Avro container file: the header in the file's metadata, records of events, and a last record that counts them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, cast

import fastavro
import fastavro.write
import orjson

from headwater.errors import LogFileDamaged
from headwater.schemas.file_events import FileEvent, LogFileHeader, event_from_values

AVRO_MAGIC: Final = b"Obj\x01"
"""How a container file begins."""
BLOCK_BYTES: Final = 256 * 1024
"""About how much is compressed, and held, at once."""
HEADER_KEY: Final = "headwater.log"
_EVENT: Final = "headwater.LogEvent"
_END: Final = "headwater.LogEnd"
_SCHEMA: Final[list[dict[str, Any]]] = [
    {
        "type": "record",
        "name": _EVENT,
        "doc": "One event of a log; data is JSON text.",
        "fields": [
            {"name": "position", "type": "long"},
            {"name": "stream_name", "type": "string"},
            {"name": "version", "type": "long"},
            {"name": "type", "type": "string"},
            {"name": "event_id", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "recorded_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "metadata", "type": {"type": "map", "values": "string"}},
            {"name": "data", "type": "string"},
        ],
    },
    {
        "type": "record",
        "name": _END,
        "doc": "The last record: a file without it was cut off.",
        "fields": [{"name": "event_count", "type": "long"}],
    },
]


class AvroWriter:
    """Writes a log as an Avro container file."""

    def __init__(self, stream: BinaryIO, header: LogFileHeader, *, codec: str) -> None:
        self._count = 0
        self._writer: Any = fastavro.write.Writer(
            stream,
            fastavro.parse_schema(_SCHEMA),
            codec=codec,
            sync_interval=BLOCK_BYTES,
            metadata={HEADER_KEY: orjson.dumps(header.as_json(), option=orjson.OPT_UTC_Z).decode()},
        )

    def write(self, events: Iterable[FileEvent]) -> None:
        """Add events."""
        for event in events:
            self._count += 1
            record = {**event._asdict(), "metadata": orjson.loads(event.metadata)}
            del record["line"]
            # Said by name: otherwise each record would be tried against both schemas.
            self._writer.write((_EVENT, record))

    def finish(self) -> None:
        """Say that this was all."""
        self._writer.write((_END, {"event_count": self._count}))
        self._writer.flush()


class AvroReader:
    """Reads a log from an Avro container file; a "line" is a record."""

    def __init__(self, stream: BinaryIO) -> None:
        self._line = self._count = 0
        try:
            reader: Any = fastavro.reader(stream)
            self._records: Iterator[Any] = iter(reader)
            header = reader.metadata.get(HEADER_KEY)
            members = None if header is None else orjson.loads(header)
        except Exception as error:
            raise _damaged(1, error) from error
        if members is None:
            raise LogFileDamaged("the Avro file holds something else than a log: its metadata has no header of one", line=1)
        self.header = LogFileHeader.from_json(members)

    def read(self) -> FileEvent | None:
        """The next event; None after the last."""
        record = self._next_record()
        if record is None:
            raise LogFileDamaged(
                f"the file ends after record {self._line - 1} without the one that counts the events: it was cut off; export it again",
                line=self._line,
            )
        if "event_count" in record:
            self._check_end(record["event_count"])
            return None
        self._count += 1
        if not isinstance(data := record.pop("data", None), str):
            raise LogFileDamaged(f"record {self._line} lacks data", line=self._line)
        return event_from_values(self._line, record, data)

    def _check_end(self, event_count: object) -> None:
        if event_count != self._count:
            raise LogFileDamaged(
                f"the file has {self._count:,} events, but its last record counts {event_count!r}: some are missing or were added",
                line=self._line,
            )
        if self._next_record() is not None:
            raise LogFileDamaged(f"record {self._line} comes after the one that ends the log", line=self._line)

    def _next_record(self) -> dict[str, Any] | None:
        self._line += 1
        try:
            record: Any = next(self._records, None)
        except Exception as error:
            raise _damaged(self._line, error) from error
        if record is not None and not isinstance(record, dict):
            raise LogFileDamaged(f"record {self._line} is none of a log", line=self._line)
        return cast("dict[str, Any] | None", record)


def _damaged(line: int, error: Exception) -> LogFileDamaged:
    """Whatever fastavro raises at bytes that are no Avro: it promises no kind."""
    return LogFileDamaged(f"record {line} of the Avro file cannot be read ({type(error).__name__}: {str(error)[:200]})", line=line)
