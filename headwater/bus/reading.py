"""From a source's records to envelopes; each kind of source has its own way, and pays for no other's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeAlias

from headwater.bus.routes import Route
from headwater.bus.values import SourceRecord
from headwater.errors import NotAnEnvelope, SchemaError
from headwater.kafka import Envelope, Provenance, RecordDecoder, ValueDecoder, kind_of, provenance_of

FindsRoute: TypeAlias = Callable[[str], Route | None]
"""Who wants events that were stored under this type."""


class Reading(NamedTuple):
    """What a record turned out to be."""

    envelope: Envelope | None
    """None where nobody knows which event it is."""
    route: Route | None
    """None where nobody wants it; then the envelope may lack its data."""
    fault: NotAnEnvelope | None = None
    """Why there is no envelope."""
    value_fault: SchemaError | None = None
    """Why the envelope has no data."""


class RecordReader(Protocol):
    """Reads the records of one source."""

    async def prepare(self, records: Iterable[SourceRecord]) -> None:
        """Do what must be done before these can be read; free when there is nothing new.

        Raises:
            BrokerUnavailable: open the source anew, so that they come again.
        """
        ...

    def provenance(self, record: SourceRecord) -> Provenance | None:
        """Which event of which log it is, or None when nobody knows."""
        ...

    def read(self, record: SourceRecord, find_route: FindsRoute) -> Reading:
        """What the record is; its faults are told, not raised."""
        ...


class EncodedRecords:
    """Reads what a relay wrote: CloudEvents headers, and a value that a decoder understands."""

    def __init__(self, values: ValueDecoder) -> None:
        self._values = values
        self._decoder = RecordDecoder()

    async def prepare(self, records: Iterable[SourceRecord]) -> None:
        """Learn the schemas of their values; see `RecordReader.prepare`."""
        await self._values.prepare(record.value for record in records)

    def provenance(self, record: SourceRecord) -> Provenance | None:
        """What the headers say; see `RecordReader.provenance`."""
        return provenance_of(record.headers)

    def read(self, record: SourceRecord, find_route: FindsRoute) -> Reading:
        """The headers, and the value where somebody wants it; see `RecordReader.read`."""
        headers = dict(record.headers)
        event_type, content_type = kind_of(headers)
        route = None if event_type is None else find_route(event_type)
        data, value_fault = "", None
        if route is not None:
            try:
                data = self._values.decode(record.value, content_type)
            except SchemaError as error:
                value_fault = error
        try:
            envelope = self._decoder.decode(record.key, headers, record.timestamp, data)
        except NotAnEnvelope as error:
            return Reading(None, None, error)
        return Reading(envelope, route, None, value_fault)
