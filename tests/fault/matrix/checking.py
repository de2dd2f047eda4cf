"""The one checker of the matrix: what the log holds, what the effects' table holds, and what is in Kafka itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.kafka import JSON_DECODER, Envelope, Partition, decode_record
from headwater.messages import LogPosition, RecordedEvent
from tests.fault.matrix.bed import Bed
from tests.fault.matrix.member_process import CATEGORY
from tests.outbox_support import faults_of, read_records, whole_log

TOPICS = {CATEGORY: 6}


class Checker:
    """Looks at a row when all of it is through. It remembers where the row before ended in the log and in each partition of the topic."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.position = 0
        self.offsets: dict[Partition, int] = {}
        self.tails: dict[Partition, LogPosition] = {}

    async def check(self, row_name: str, event_count: int) -> dict[str, int]:
        """Numbers of what is wrong, all of them zero.

        Raises:
            AssertionError: one of them is not; it begins with the first few faults.
        """
        summary, details = await self._effects(row_name, event_count)
        kafka_faults = await self._kafka()
        summary |= {"kafka_missing": _count(kafka_faults, "is missing"), "kafka_repeated": _count(kafka_faults, "is there twice")}
        summary["kafka_other_faults"] = len(kafka_faults) - summary["kafka_missing"] - summary["kafka_repeated"]
        details += kafka_faults
        assert not any(summary[fault] for fault in summary if fault != "events"), f"{summary} {details[:10]}"
        return summary

    async def _effects(self, row_name: str, event_count: int) -> tuple[dict[str, int], list[str]]:
        prefix = f"{CATEGORY}-{row_name}-%"
        rows = await self.bed.fetch(
            "SELECT stream_name AS stream, array_agg((data->>'number')::int ORDER BY version) AS numbers FROM headwater.log "
            "WHERE global_position > $1 AND stream_name LIKE $2 GROUP BY stream_name",
            self.position,
            prefix,
        )
        log: dict[str, list[int]] = {row["stream"]: row["numbers"] for row in rows}
        rows = await self.bed.fetch(
            "SELECT stream, array_agg(number ORDER BY id) AS numbers FROM effects WHERE row_name = $1 GROUP BY stream", row_name
        )
        effects: dict[str, list[int]] = {row["stream"]: row["numbers"] for row in rows}
        dead = (await self.bed.fetch("SELECT count(*) FROM headwater.dead_letters"))[0][0]
        return compare(log, effects, event_count, dead_letters=dead)

    async def _kafka(self) -> list[str]:
        """The part of the topic that is new since the last row, its chain of positions included, against the same part of the log."""
        events = [event for event in await whole_log(self.bed.store, after=self.position) if event.stream_name.startswith(f"{CATEGORY}-")]
        records = await read_records(self.bed.kafka.bootstrap, TOPICS, self.offsets)
        # Not in the loop: the proxies live there, and what passes through them must not wait for this.
        found, faults = await asyncio.to_thread(self._compare_kafka, events, records)
        self.position = max((event.global_position for event in events), default=self.position)
        self.offsets |= {partition: kept[-1].offset + 1 for partition, kept in records.items() if kept}
        self.tails |= {partition: envelopes[-1].position for partition, envelopes in found.items() if envelopes}
        return faults

    def _compare_kafka(
        self, events: Sequence[RecordedEvent], records: Mapping[Partition, Sequence[Any]]
    ) -> tuple[dict[Partition, Sequence[Envelope]], list[str]]:
        found: dict[Partition, Sequence[Envelope]] = {
            partition: [decode_record(r.key, r.value, list(r.headers), r.timestamp, values=JSON_DECODER) for r in kept]
            for partition, kept in records.items()
        }
        return found, faults_of(events, found, TOPICS, after=self.tails)

    async def check_again(self, rows: Mapping[str, int]) -> None:
        """The same for everything from the beginning: whatever a row's end was too early to see, is there now."""
        for row_name, event_count in rows.items():
            self.position = 0
            summary, details = await self._effects(row_name, event_count)
            assert not any(summary[fault] for fault in summary if fault != "events"), f"{row_name}, later: {summary} {details}"
        self.position, self.offsets, self.tails = 0, {}, {}
        faults = await self._kafka()
        assert not faults, f"later: {faults[:10]}"


def compare(
    log: Mapping[str, Sequence[int]], effects: Mapping[str, Sequence[int]], event_count: int, *, dead_letters: int = 0
) -> tuple[dict[str, int], list[str]]:
    """What is wrong with the effects of a row: numbers, and a few faults in words. Both sides give the numbers of each stream in their order."""
    wanted = Counter(number for numbers in log.values() for number in numbers)
    got = Counter(number for numbers in effects.values() for number in numbers)
    disordered = [stream for stream in {*log, *effects} if not _in_order(log.get(stream, ()), effects.get(stream, ()))]
    missing, repeated = sorted((wanted - got).elements()), sorted((got - wanted).elements())
    summary = {
        "events": wanted.total(),
        "log_faults": len([number for number in range(1, event_count + 1) if wanted[number] != 1])
        + len(set(wanted) - set(range(1, event_count + 1))),
        "effects_missing": len(missing),
        "effects_repeated": len(repeated),
        "keys_out_of_order": len(disordered),
        "dead_letters": dead_letters,
    }
    details = [f"missing: {missing[:5]}"] * bool(missing) + [f"repeated: {repeated[:5]}"] * bool(repeated)
    return summary, details + [f"{stream}: {effects.get(stream)} for {log.get(stream)}"[:400] for stream in disordered[:2]]


def _in_order(wanted: Sequence[int], got: Sequence[int]) -> bool:
    """Whether what is there stands as in the log; what is missing or repeated is counted elsewhere, what belongs to another stream is not in order."""
    there = set(got)
    return list(dict.fromkeys(got)) == [number for number in wanted if number in there]


def _count(faults: Sequence[str], what: str) -> int:
    return sum(what in fault for fault in faults)
