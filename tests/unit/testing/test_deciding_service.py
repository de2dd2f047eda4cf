"""`Service.decide`: command ids, snapshots and cache as the service gives them."""

from __future__ import annotations

import pytest

from headwater import Service
from headwater.errors import UsageError
from headwater.randomness import uuid7
from headwater.testing import memory_service
from headwater.testing.conformance.deciding import EVERY, STREAM, SUM, Add


@pytest.mark.parametrize("cached_streams_max", [0, 10])
async def test_service_decides_each_command_once_with_its_short_cuts(cached_streams_max: int) -> None:
    service = Service("sums", cached_streams_max=cached_streams_max)
    async with memory_service(service) as memory:
        parts = service.open_parts()
        first, command_id = None, uuid7()
        for _ in range(EVERY):
            decision = await service.decide(STREAM, Add(1), SUM, command_id=command_id)
            first = first or decision
            assert decision == first
            await service.decide(STREAM, Add(1), SUM)
        assert (await service.decide(STREAM, Add(0), SUM)).state.total == len(memory.recorded)
        assert len(parts.snapshots.snapshots) == 1  # type: ignore[attr-defined]
        assert (parts.stream_cache is not None) is bool(cached_streams_max)
    async with memory_service(service):
        # Another log: nothing of the last one is left.
        assert (await service.decide(STREAM, Add(1), SUM)).state.total == 1


async def test_repeated_command_counts_as_written_here() -> None:
    """A causal read after it waits for what another process stored."""
    service, command_id = Service("sums"), uuid7()
    async with memory_service(service):
        parts = service.open_parts()
        decision = await service.decide(STREAM, Add(3), SUM, command_id=command_id)
        parts.store.last_written = 0
        assert await service.decide(STREAM, Add(3), SUM, command_id=command_id) == decision
        assert decision.result is not None
        assert parts.store.last_written == decision.result.global_position


async def test_cache_of_fewer_than_no_streams_is_refused() -> None:
    with pytest.raises(UsageError, match="1 or more"):
        async with memory_service(Service("sums", cached_streams_max=-1)):
            pass
