"""What can be kept as a snapshot, what is refused, and what the cache forgets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
import structlog
from pydantic import BaseModel

from headwater.errors import UsageError
from headwater.eventstore import Decider, Snapshots, StreamCache, decide, event_id_of_command
from headwater.eventstore.cache import Folded
from headwater.messages import ANY
from headwater.randomness import uuid7
from headwater.testing import MemoryEventStore, MemorySnapshotStore
from headwater.testing.conformance.deciding import REGISTRY, STREAM, SUM, Add, Added


class Basket(BaseModel, frozen=True):
    amounts: dict[UUID, Decimal] = {}
    owner: str | None = None


@dataclass(frozen=True)
class Bag:
    amounts: frozenset[int] = frozenset()


class Unequal:
    """Pydantic cannot tell what it is."""


@dataclass(frozen=True, eq=False)
class Lonely:
    total: int = 0


def decider(initial_state: Any, **options: Any) -> Decider[Any, Any]:
    return Decider(initial_state, lambda _, __: [], lambda state, _: state, **{"name": "test", "snapshots": Snapshots(), **options})


@pytest.mark.parametrize(
    ("initial_state", "state_type", "states"),
    [
        (Basket(), None, [Basket(amounts={uuid4(): Decimal("1.50")}, owner="é\x00")]),
        (Bag(), None, [Bag(frozenset({3, 1}))]),
        (0, None, [1, 2**70]),
        (None, Basket | None, [Basket(), None]),
        ({}, dict[UUID, int], [{uuid4(): 1}]),
        ((), tuple[int | str, ...], [(1, "1", 2)]),
    ],
)
def test_state_comes_back_equal(initial_state: Any, state_type: Any, states: list[Any]) -> None:
    codec = decider(initial_state, snapshots=Snapshots(state_type=state_type)).codec
    assert codec is not None
    for state in [initial_state, *states]:
        assert codec.decode(codec.encode(state)) == state


@pytest.mark.parametrize(
    ("initial_state", "state"),
    [(Basket(), Basket.model_construct(amounts={uuid4(): "x"})), (Bag(), Basket()), (Lonely(), Lonely(1)), (1.0, math.inf), ("", "\ud800")],
)
def test_state_that_would_come_back_otherwise_is_no_snapshot(initial_state: Any, state: Any) -> None:
    codec = decider(initial_state).codec
    assert codec is not None
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's own among them
        codec.encode(state)


@pytest.mark.parametrize(
    ("initial_state", "options", "says"),
    [
        (0, {"name": ""}, "cannot name snapshots"),
        (0, {"name": "a\nb"}, "cannot name snapshots"),
        (0, {"name": "x" * 201}, "cannot name snapshots"),
        (0, {"snapshots": Snapshots(every=0)}, "1 or more"),
        (None, {}, r"Snapshots\(state_type="),
        ({}, {}, r"Snapshots\(state_type="),
        (Unequal(), {}, "pydantic cannot write"),
        (0, {"snapshots": Snapshots(state_type="NoSuchClass")}, "pydantic cannot write"),
    ],
)
def test_decider_that_cannot_have_snapshots_says_so_at_once(initial_state: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        decider(initial_state, **options)


def test_shape_changes_with_class_and_version_alone() -> None:
    @dataclass(frozen=True)
    class Other:
        amounts: frozenset[int] = frozenset()
        more: list[int] = field(default_factory=list)

    def shape(initial_state: Any, **options: Any) -> str:
        codec = decider(initial_state, snapshots=Snapshots(**options)).codec
        assert codec is not None
        return codec.shape

    assert shape(Bag()) == shape(Bag(frozenset({1})), every=7)
    assert len({shape(Bag()), shape(Bag(), version=2), shape(Other()), shape(0), shape("")}) == 5


async def test_state_that_cannot_be_kept_is_said_and_decided_all_the_same() -> None:
    store, snapshots = MemoryEventStore(), MemorySnapshotStore()
    await store.append(STREAM, [Added(amount=1)] * 3, expected_version=ANY)
    lonely = Decider(Lonely(), SUM.decide, lambda state, _: Lonely(state.total + 1), name="lonely", snapshots=Snapshots(every=2))
    with structlog.testing.capture_logs() as facts:
        decision = await decide(store, REGISTRY, lonely, STREAM, Add(1), snapshots=snapshots)
    assert (decision.state.total, snapshots.snapshots) == (5, ())
    (fact,) = facts
    assert (fact["event"], fact["log_level"], fact["decider"]) == ("snapshot_not_saved", "warning", "lonely")
    assert "__eq__" in fact["reason"]


async def test_dropped_snapshot_is_said() -> None:
    store, snapshots = MemoryEventStore(), MemorySnapshotStore()
    await store.append(STREAM, [Added(amount=1)] * 9, expected_version=ANY)
    await decide(store, REGISTRY, SUM, STREAM, Add(0), snapshots=snapshots)
    newer = replace(SUM, snapshots=Snapshots(version=2))
    with structlog.testing.capture_logs() as facts:
        await decide(store, REGISTRY, newer, STREAM, Add(0), snapshots=snapshots)
    assert [(fact["event"], fact["reason"], fact["version"]) for fact in facts] == [("snapshot_dropped", "shape_changed", 9)]


def test_cache_forgets_the_stream_used_longest_ago() -> None:
    cache = StreamCache(streams_max=2)
    for name in ("a", "b"):
        cache.put(name, SUM, Folded(name, 1))
    assert cache.get("a", SUM) is not None
    cache.put("c", SUM, Folded("c", 1))
    assert [cache.get(name, SUM) is not None for name in ("a", "b", "c")] == [True, False, True]
    assert len(cache) == 2


def test_cache_keeps_the_later_state_and_deciders_apart() -> None:
    cache, twin = StreamCache(), replace(SUM, name="sum")
    cache.put("a", SUM, Folded("later", 2))
    cache.put("a", SUM, Folded("earlier", 1))
    cache.put("a", twin, Folded("twin", 1))
    assert [folded.state for folded in (cache.get("a", SUM), cache.get("a", twin)) if folded] == ["later", "twin"]
    cache.drop("a", SUM)
    cache.drop("a", SUM)
    assert (cache.get("a", SUM), len(cache)) == (None, 1)


@pytest.mark.parametrize("streams_max", [0, -1])
def test_cache_of_nothing_is_refused(streams_max: int) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        StreamCache(streams_max=streams_max)


def test_ids_of_events_follow_from_the_command_alone() -> None:
    random, timed = uuid4(), uuid7()
    assert event_id_of_command(random, 3) == uuid5(random, "3")
    ids = [event_id_of_command(timed, ordinal) for ordinal in range(1_000)]
    assert ids == [event_id_of_command(timed, ordinal) for ordinal in range(1_000)]
    assert len({*ids, timed}) == 1_001
    # They sort where the command's id does (rule 7).
    assert {(event_id.version, event_id.variant, event_id.int >> 80) for event_id in ids} == {(7, timed.variant, timed.int >> 80)}
