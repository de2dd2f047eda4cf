"""Read models for tests without servers."""

from __future__ import annotations

import pytest

from headwater.errors import ConsistencyTimeout, UsageError
from headwater.messages import ANY, Event
from headwater.projections import Projection, RowReader, on
from headwater.testing import MemoryEventStore
from headwater.testing.memory_projections import MemoryReadModels


class BreadBaked(Event):
    kind: str
    loaves: int = 1


class Bakery(Projection, key="kind"):
    loaves: int = 0

    @on(BreadBaked)
    def baked(self, event: BreadBaked) -> None:
        self.loaves += event.loaves


async def test_rows_are_folded_from_the_log() -> None:
    store = MemoryEventStore()
    models: RowReader = MemoryReadModels(store)
    assert await models.read(Bakery, "rye") is None
    events = [BreadBaked(kind=kind, loaves=n) for kind, n in (("rye", 1), ("oat", 2), ("rye", 3), ("spelt", 4))]
    done = await store.append("bread-1", events, expected_version=0)
    row = await models.read(Bakery, "rye", consistency="causal", written=done.global_position)
    assert row is not None
    assert (row.row_key, row.loaves) == ("rye", 4)
    assert [r.row_key async for r in models.read_all(Bakery, after="oat", limit=1)] == ["rye"]


async def test_it_refuses_what_the_real_one_refuses() -> None:
    store = MemoryEventStore()
    models = MemoryReadModels(store)
    await store.append("bread-1", [BreadBaked(kind="rye")], expected_version=ANY)
    with pytest.raises(ConsistencyTimeout, match="1 behind 2"):
        await models.read(Bakery, "rye", consistency="causal", written=2)
    with pytest.raises(UsageError, match="say which row"):
        await models.read(Bakery)
