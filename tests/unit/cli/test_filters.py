"""What options mean, and what of an event's text may reach a terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from headwater.bus import ALL_STATUSES, LetterFilter
from headwater.cli.dead_letters import choose, parse_status
from headwater.cli.log import parse_position_or_id
from headwater.cli.output import event_facts, indented_json, print_json, print_table, shortened, shown
from headwater.errors import UsageError
from headwater.eventstore import EventFilter
from headwater.messages import RecordedEvent

ID = UUID("0199a6c0-5b1e-7c3a-9d4e-0c9b6a1f2e3d")


def event(data: str = "{}") -> RecordedEvent:
    return RecordedEvent(7, "order-1", 1, "OrderPlaced", data, {}, ID, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@pytest.mark.parametrize(
    ("chosen", "matches"),
    [
        (EventFilter(), True),
        (EventFilter(category="order"), True),
        (EventFilter(category="orde"), False),
        (EventFilter(type="OrderPlaced", stream_name="order-1"), True),
        (EventFilter(type="OrderPlaced", stream_name="order-2"), False),
        (EventFilter(category="order", type="OrderCancelled"), False),
    ],
)
def test_an_event_must_fit_every_part_of_the_filter(chosen: EventFilter, matches: bool) -> None:
    assert chosen.matches(event()) is matches


def test_a_position_or_an_id_is_recognised_and_nothing_else() -> None:
    assert parse_position_or_id("1742") == 1742
    assert parse_position_or_id("1,742") == 1742
    assert parse_position_or_id(str(ID)) == ID
    for text in ("", "-1", "order-1", "9" * 30, "²"):
        with pytest.raises(UsageError, match="position"):
            parse_position_or_id(text)


def test_statuses_are_words() -> None:
    assert parse_status("open") == ("waiting", "retrying")
    assert parse_status("all") == ALL_STATUSES
    assert parse_status("skipped") == ("skipped",)
    with pytest.raises(UsageError, match="waiting"):
        parse_status("done")


def test_a_decision_must_say_which_letters_it_is_about() -> None:
    with pytest.raises(UsageError, match="which ones"):
        choose(None, None, None, None, everything=False)
    with pytest.raises(UsageError, match="leave out"):
        choose([1], None, None, None, everything=True)
    assert choose(None, None, None, None, everything=True) == LetterFilter()
    assert choose([2, 1, 2], "shop", None, None, everything=False) == LetterFilter(ids=(2, 1), group="shop")
    assert choose(None, None, "reserve", "OrderPlaced", everything=False) == LetterFilter(handler_name="reserve", event_type="OrderPlaced")


def test_values_are_shown_for_people() -> None:
    assert shown(None) == "-"
    assert shown(True) == "yes"
    assert shown(1234567) == "1,234,567"
    assert shown(datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-02 03:04:05Z"
    assert shortened("a\n  b" + "c" * 50, 5) == "a bc…"


def test_nothing_that_is_shown_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("\x1b[2J\x9b1m\r") == "\\x1b[2J\\x9b1m\\x0d"
    assert "\x9b" not in indented_json('{"a": "\\u009b"}')
    assert indented_json("no json \x1b") == "no json \\x1b"
    print_table(("[bold]head", "count"), [("[red]x\x1b[0m", 1200)], empty="none")
    out = capsys.readouterr().out
    assert "[red]x\\x1b[0m" in out
    assert "1,200" in out
    assert "\x1b" not in out


def test_data_reaches_programs_as_it_was_stored(capsys: pytest.CaptureFixture[str]) -> None:
    number = "12345678901234567890.123456789012345678901"
    print_json(event_facts(event(f'{{"amount": {number}}}')))
    line = capsys.readouterr().out
    assert number in line
    facts = json.loads(line)
    assert facts["recorded_at"] == "2026-01-02T03:04:05Z"
    assert facts["event_id"] == str(ID)
