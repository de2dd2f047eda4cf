"""Which parked keys are meant, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.bus import ParkedFilter
from headwater.cli.parked_keys import ask, choose_parked
from headwater.errors import UsageError


def test_options_become_a_filter() -> None:
    assert choose_parked(None, None, None, None, None) == ParkedFilter()
    assert choose_parked([3, 3, 4], None, None, None, None, everything=False) == ParkedFilter(ids=(3, 4))
    assert choose_parked(None, "shop", "reserve", "OrderPlaced", "order-1", everything=False, status="stopped") == ParkedFilter(
        None, "shop", "reserve", "OrderPlaced", "order-1", ("stopped",)
    )
    assert choose_parked(None, None, None, None, None, everything=True) == ParkedFilter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"everything": False}, "which ones"),
        ({"status": "handled"}, "write waiting or stopped"),
        ({"ids": [1], "everything": True}, "leave out --all"),
    ],
)
def test_wrong_use_says_what_would_be_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_parked(**{"ids": None, "group": None, "handler_name": None, "event_type": None, "key": None, **options})


def test_nobody_is_asked_where_nobody_is_there() -> None:
    ask("skip", "parked keys", 3, 3, without_asking=True, yes=False, json_output=False)
    ask("discard", "parked keys", 3, 3, without_asking=False, yes=True, json_output=False)
    with pytest.raises(UsageError, match="this would discard the oldest 3 of 7 parked keys, and nobody can be asked"):
        ask("discard", "parked keys", 3, 7, without_asking=False, yes=False, json_output=True)
