"""What every `SnapshotStore` promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import pytest

from headwater.errors import UsageError
from headwater.eventstore import Snapshot, SnapshotStore

_ID: Final = UUID("01900000-0000-7000-8000-000000000001")
_OTHER_ID: Final = UUID("01900000-0000-7000-8000-000000000002")
SNAPSHOT: Final = Snapshot("conformance-1", "counter", 10, _ID, "round", '{"b": 1.50, "a": "\\u0000 é€"}')


class SnapshotStoreConformance:
    """Inherit, and give a fixture `snapshots` with an empty snapshot store; every test must pass."""

    pytestmark = pytest.mark.asyncio

    async def test_unknown_snapshot_is_none(self, snapshots: SnapshotStore) -> None:
        assert await snapshots.load("conformance-1", "counter") is None

    async def test_snapshot_comes_back_as_it_was_given(self, snapshots: SnapshotStore) -> None:
        await snapshots.save(SNAPSHOT)
        assert await snapshots.load("conformance-1", "counter") == SNAPSHOT

    async def test_streams_and_deciders_keep_theirs_apart(self, snapshots: SnapshotStore) -> None:
        given = [SNAPSHOT, replace(SNAPSHOT, stream_name="conformance-2", version=2), replace(SNAPSHOT, decider_name="é", version=3)]
        for snapshot in given:
            await snapshots.save(snapshot)
        assert [await snapshots.load(snapshot.stream_name, snapshot.decider_name) for snapshot in given] == given

    @pytest.mark.parametrize(
        ("later", "is_kept"),
        [
            (replace(SNAPSHOT, version=11, state="newer"), True),
            (replace(SNAPSHOT, version=9, state="older"), False),
            (replace(SNAPSHOT, state="as old"), False),
            (replace(SNAPSHOT, version=9, shape="square", state="of another shape"), True),
        ],
        ids=lambda value: value.state if isinstance(value, Snapshot) else "",
    )
    async def test_newest_of_a_shape_stays(self, snapshots: SnapshotStore, later: Snapshot, is_kept: bool) -> None:
        await snapshots.save(SNAPSHOT)
        await snapshots.save(later)
        assert await snapshots.load("conformance-1", "counter") == (later if is_kept else SNAPSHOT)

    async def test_dropped_snapshot_is_gone(self, snapshots: SnapshotStore) -> None:
        await snapshots.save(SNAPSHOT)
        await snapshots.save(replace(SNAPSHOT, decider_name="other"))
        await snapshots.drop(SNAPSHOT)
        await snapshots.drop(SNAPSHOT)
        assert await snapshots.load("conformance-1", "counter") is None
        assert await snapshots.load("conformance-1", "other") is not None

    @pytest.mark.parametrize(
        "other",
        [
            replace(SNAPSHOT, version=9),
            replace(SNAPSHOT, event_id=_OTHER_ID),
            replace(SNAPSHOT, shape="square"),
            replace(SNAPSHOT, stream_name="conformance-2"),
        ],
    )
    async def test_drop_leaves_what_took_its_place(self, snapshots: SnapshotStore, other: Snapshot) -> None:
        await snapshots.save(SNAPSHOT)
        await snapshots.drop(other)
        assert await snapshots.load("conformance-1", "counter") == SNAPSHOT

    async def test_something_that_is_no_connection_is_refused(self, snapshots: SnapshotStore) -> None:
        nonsense: Any = object()
        for call in (snapshots.save(SNAPSHOT, connection=nonsense), snapshots.drop(SNAPSHOT, connection=nonsense)):
            with pytest.raises(UsageError, match="connection"):
                await call
        with pytest.raises(UsageError, match="connection"):
            await snapshots.load("conformance-1", "counter", connection=nonsense)
