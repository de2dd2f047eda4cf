"""One item while a member holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from headwater.clock import Clock
from headwater.coordination.values import Lease
from headwater.waiting import first_of


class Holding:
    """One item that this member holds, for the work on it."""

    def __init__(self, item: str, lease: Lease, valid_until: float, clock: Clock) -> None:
        self.item = item
        self.lease = lease
        self.recalled = asyncio.Event()
        """Set when the item should be given back: finish what is on its way and return. Set when it is lost, too."""
        self.has_ended = False
        """The work on it is over; all that is left is to give it back."""
        self._clock, self._valid_until, self._lost = clock, valid_until, asyncio.Event()

    @property
    def is_valid(self) -> bool:
        """Whether the lease cannot be another's yet, as far as a process can know that was never frozen between asking and acting."""
        return self._clock.monotonic() < self._valid_until

    @property
    def is_lost(self) -> bool:
        """Whether it is known to be another's."""
        return self._lost.is_set()

    def extend(self, lease: Lease, valid_until: float) -> None:
        """It was renewed."""
        self.lease = lease
        if not self._lost.is_set():
            self._valid_until = valid_until

    def lose(self) -> None:
        """It is another's, or nobody's any more."""
        self._valid_until = float("-inf")
        self._lost.set()
        self.recalled.set()

    async def pause(self, seconds: float) -> None:
        """Wait so long, but not longer than until it is recalled."""
        await first_of(self._clock.sleep(seconds), self.recalled.wait())

    async def lost(self) -> None:
        """Wait until it is another's, or may be."""
        while not self._lost.is_set() and (left := self._valid_until - self._clock.monotonic()) > 0:
            await first_of(self._clock.sleep(left), self._lost.wait())


SharedWork: TypeAlias = Callable[[Holding], Awaitable[None]]
"""What is done with an item for as long as it is held. It returns when `Holding.recalled` is set and all is finished, and is cancelled when the
lease is lost or may be; its lease is given back only when it has ended. It deals with its own failures: one that gets out is told as a fact,
and the item rests for the time of a lease, so that another member may try."""
