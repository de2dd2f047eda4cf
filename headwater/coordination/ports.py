"""What a store of leases does, whichever server keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headwater.coordination.values import Lease, LeaseFacts


class Leases(Protocol):
    """Fenced leases on the store's own time. A lease says who may try; only its term, checked where something is written, keeps others out."""

    async def acquire(self, name: str, holder: str, seconds: float) -> Lease | None:
        """The lease under a new term, or None while another holds it.

        A holder that holds it already gets it again, under a new term: so a process that was killed need not wait for its own lease, if it keeps
        its name over restarts; and of two with the same name the later one wins.

        Raises:
            UsageError: a name or the time cannot be one.
            StorageUnavailable: outcome unknown; asking again is safe.
        """
        ...

    async def renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[Lease]:
        """Keep them for that much longer from now; returns those that are still of their term, the others are lost.

        One that ran out and that nobody took is kept, too; one that was given back is not.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Let the next one have it at once; does nothing when the term is over already."""
        ...

    async def list(self, prefix: str = "") -> Sequence[LeaseFacts]:
        """Every lease that was ever taken under a name that begins so, by name."""
        ...
