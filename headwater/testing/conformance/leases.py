"""What every store of leases promises."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from headwater.coordination import Lease, Leases
from headwater.errors import UsageError
from headwater.testing.waiting import eventually

_SHORT_SECONDS: Final = 0.05
_LONG_SECONDS: Final = 60.0


class LeasesConformance:
    """Inherit, and give a fixture `leases` with an empty store of leases on real time; every test must pass."""

    pytestmark = pytest.mark.asyncio

    async def test_lease_is_its_holders_alone(self, leases: Leases) -> None:
        lease = await taken(leases, "one")
        assert (lease.name, lease.holder, lease.term, lease.fencing_token) == ("conformance", "one", 1, 1)
        assert await leases.acquire("conformance", "other", _LONG_SECONDS) is None
        assert (await taken(leases, "other", name="conformance-2")).term == 1

    async def test_lease_that_ran_out_goes_to_the_next_under_a_later_term(self, leases: Leases) -> None:
        first = await taken(leases, "one", seconds=_SHORT_SECONDS)
        second = await eventually(lambda: leases.acquire("conformance", "other", _LONG_SECONDS))
        assert second is not None
        assert second.term == first.term + 1
        assert await leases.renew([first], _LONG_SECONDS) == []
        await leases.release(first)
        assert await leases.acquire("conformance", "third", _LONG_SECONDS) is None

    async def test_term_survives_giving_back(self, leases: Leases) -> None:
        for term in range(1, 5):
            lease = await taken(leases, f"holder-{term}")
            assert lease.term == term
            await leases.release(lease)
            await leases.release(lease)

    async def test_renewing_keeps_a_lease(self, leases: Leases) -> None:
        lease = await taken(leases, "one", seconds=_SHORT_SECONDS)
        [renewed] = await leases.renew([lease], _LONG_SECONDS)
        assert (renewed.name, renewed.term, renewed.holder) == (lease.name, lease.term, lease.holder)
        assert renewed.expires_at > lease.expires_at
        [facts] = await leases.list("conformance")
        assert (facts.expires_at, facts.is_held) == (renewed.expires_at, True)

    async def test_lease_that_ran_out_can_be_renewed_while_nobody_took_it(self, leases: Leases) -> None:
        lease = await taken(leases, "one", seconds=_SHORT_SECONDS)

        async def ran_out() -> bool:
            return not (await leases.list())[0].is_held

        await eventually(ran_out)
        assert len(await leases.renew([lease], _LONG_SECONDS)) == 1
        assert await leases.acquire("conformance", "other", _LONG_SECONDS) is None

    async def test_lease_that_was_given_back_cannot_be_renewed(self, leases: Leases) -> None:
        lease = await taken(leases, "one")
        await leases.release(lease)
        assert await leases.renew([lease], _LONG_SECONDS) == []
        [facts] = await leases.list()
        assert (facts.holder, facts.term, facts.is_held) == (None, 1, False)

    async def test_renewing_several_tells_which_are_lost(self, leases: Leases) -> None:
        kept = [await taken(leases, "one", name=f"kept-{number}") for number in range(5)]
        lost = await taken(leases, "one", name="lost")
        await leases.release(lost)
        await taken(leases, "other", name="lost")
        renewed = await leases.renew([kept[3], lost, *kept[:3], kept[4]], _LONG_SECONDS)
        assert [lease.name for lease in renewed] == ["kept-3", "kept-0", "kept-1", "kept-2", "kept-4"]
        assert await leases.renew([], _LONG_SECONDS) == []

    async def test_holder_of_the_same_name_takes_its_lease_again_under_a_later_term(self, leases: Leases) -> None:
        first = await taken(leases, "one")
        second = await taken(leases, "one")
        assert second.term == first.term + 1
        assert await leases.renew([first], _LONG_SECONDS) == []
        await leases.release(first)
        assert len(await leases.renew([second], _LONG_SECONDS)) == 1

    async def test_one_of_many_who_ask_at_once_gets_it(self, leases: Leases) -> None:
        for term in range(1, 4):
            answers = await asyncio.gather(*(leases.acquire("conformance", f"holder-{n}", _LONG_SECONDS) for n in range(8)))
            [lease] = [answer for answer in answers if answer is not None]
            assert lease.term == term
            await leases.release(lease)

    async def test_list_shows_names_that_begin_so(self, leases: Leases) -> None:
        for name in ("b/2", "a", "b/1", "b", "B/3", "b/%"):
            await taken(leases, "one", name=name)
        assert [facts.name for facts in await leases.list("b/")] == ["b/%", "b/1", "b/2"]
        assert await leases.list("b/_") == []
        assert len(await leases.list()) == 6

    @pytest.mark.parametrize(
        ("name", "holder", "seconds"),
        [("", "one", 1.0), ("x" * 201, "one", 1.0), ("nul\x00", "one", 1.0), ("x", "", 1.0), ("x", "one", 0.0), ("x", "one", float("nan"))],
    )
    async def test_what_cannot_be_kept_is_refused(self, leases: Leases, name: str, holder: str, seconds: float) -> None:
        with pytest.raises(UsageError, match="lease"):
            await leases.acquire(name, holder, seconds)
        assert await leases.list() == []


async def taken(leases: Leases, holder: str, *, name: str = "conformance", seconds: float = _LONG_SECONDS) -> Lease:
    """A lease that nobody holds."""
    lease = await leases.acquire(name, holder, seconds)
    assert lease is not None
    return lease
