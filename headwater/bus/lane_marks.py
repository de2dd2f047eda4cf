"""How far the lanes of a partition got: which of its messages were handled beyond its position (rule 20)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

LANES_MAX: Final = 1_024
"""Lanes of one handler in one partition; each is a row."""


class Lane(NamedTuple):
    """One lane of one handler in one partition."""

    handler_name: str
    lane_count: int
    number: int


def lane_of(key: str, lane_count: int) -> int:
    """The lane of a key; another hash than the partitioner's, so that the keys of one partition spread over all lanes."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % lane_count


class LaneMarks:
    """Marks as they were when the partition was claimed, over every number of lanes that is still of interest.

    Within one number of lanes, everything of a lane up to its mark was handled: a lane takes its messages in order, and one that another number of
    lanes had handled already is passed over. So a message was handled if any mark of its key, under any number of lanes, has reached it.
    """

    def __init__(self, marks: Mapping[Lane, int]) -> None:
        self._marks = {lane: mark for lane, mark in marks.items() if mark >= 0}
        self._counts: dict[str, set[int]] = {}
        for lane in self._marks:
            self._counts.setdefault(lane.handler_name, set()).add(lane.lane_count)
        self.highest = max(self._marks.values(), default=-1)
        """No lane got further than this offset."""

    def is_done(self, handler_name: str, key: str, offset: int) -> bool:
        """Whether this handler handled this message already."""
        counts: Iterable[int] = self._counts.get(handler_name, ())
        return any(offset <= self._marks.get(Lane(handler_name, count, lane_of(key, count)), -1) for count in counts)


NO_MARKS: Final = LaneMarks({})
