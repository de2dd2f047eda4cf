"""Leases without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from headwater.clock import SYSTEM_CLOCK, Clock
from headwater.coordination import Lease, LeaseFacts, check_lease, check_seconds


class MemoryLeases:
    """`Leases` in memory; they run by the given clock."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._kept: dict[str, LeaseFacts] = {}

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        """The lease under a new term, or None while another holds it; see `Leases.acquire`."""
        check_lease(name, holder, seconds)
        await self._clock.sleep(0)
        known = self._facts(name)
        if known is not None and known.is_held and known.holder != holder:
            return None
        term = 1 if known is None else known.term + 1
        expires_at = self._clock.now() + timedelta(seconds=seconds)
        self._kept[name] = LeaseFacts(name, term, holder, expires_at, is_held=True)
        return Lease(name, term, holder, expires_at)

    async def renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[Lease]:
        """Keep them for that much longer; see `Leases.renew`."""
        check_seconds(seconds)
        await self._clock.sleep(0)
        expires_at = self._clock.now() + timedelta(seconds=seconds)
        kept = [replace(lease, expires_at=expires_at) for lease in leases if self.is_current(lease)]
        for lease in kept:
            self._kept[lease.name] = replace(self._kept[lease.name], expires_at=expires_at)
        return kept

    async def release(self, lease: Lease) -> None:
        """Let the next one have it at once; see `Leases.release`."""
        await self._clock.sleep(0)
        if self.is_current(lease):
            self._kept[lease.name] = replace(self._kept[lease.name], holder=None, expires_at=self._clock.now())

    async def list(self, prefix: str = "") -> Sequence[LeaseFacts]:
        """The leases whose names begin so; see `Leases.list`."""
        await self._clock.sleep(0)
        return [facts for name in sorted(self._kept) if name.startswith(prefix) and (facts := self._facts(name)) is not None]

    def is_current(self, lease: Lease) -> bool:
        """Whether the lease is still of this term and was not given back; what a write that it fences asks."""
        known = self._kept.get(lease.name)
        return known is not None and known.term == lease.term and known.holder is not None

    def expire(self, prefix: str = "") -> None:
        """Let the leases whose names begin so run out now, as if their holders had been frozen."""
        for name, known in self._kept.items():
            if name.startswith(prefix):
                self._kept[name] = replace(known, expires_at=self._clock.now())

    def _facts(self, name: str) -> LeaseFacts | None:
        known = self._kept.get(name)
        return known and replace(known, is_held=known.holder is not None and known.expires_at > self._clock.now())
