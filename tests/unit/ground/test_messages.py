"""Events before and after storing, without any store."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.errors import InvalidEvent, InvalidStreamName, UnknownEventType, UsageError
from headwater.messages import (
    Event,
    EventRegistry,
    LogPosition,
    NewEvent,
    RecordedEvent,
    category_of,
    check_stream_name,
    prepare,
    with_correlation,
)
from headwater.telemetry import Correlation, correlate


class InvoiceSent(Event):
    number: int
    amount: Decimal = Decimal("1.50")
    note: str = ""
    scan: bytes = b""


class HTTPRequestSeen(Event):
    pass


class Basket(Event, category="cart"):
    pass


class BasketEmptied(Basket):
    pass


def recorded(event_type: str, data: str) -> RecordedEvent:
    return RecordedEvent(7, "invoice-1", 1, event_type, data, {}, uuid.UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("event_class", "category"), [(InvoiceSent, "invoice"), (HTTPRequestSeen, "http"), (Basket, "cart"), (BasketEmptied, "cart")]
)
def test_category_is_the_first_word_or_what_the_class_says(event_class: type[Event], category: str) -> None:
    assert (event_class.event_category, event_class.event_type) == (category, event_class.__name__)


def test_category_that_cannot_name_a_topic_is_refused_at_the_class() -> None:
    with pytest.raises(InvalidStreamName, match="Faulty"):
        type("Faulty", (Event,), {"__module__": __name__}, category="no spaces")


def test_events_are_frozen_and_refuse_unknown_fields() -> None:
    event = InvoiceSent(number=1)
    with pytest.raises(ValidationError, match="frozen"):
        event.number = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        InvoiceSent(number=1, colour="red")  # type: ignore[call-arg]


@given(number=st.integers(-(2**70), 2**70), amount=st.decimals(allow_nan=False, allow_infinity=False), note=st.text(), scan=st.binary())
def test_event_survives_the_way_through_json(number: int, amount: Decimal, note: str, scan: bytes) -> None:
    event = InvoiceSent(number=number, amount=amount, note=note.replace("\x00", ""), scan=scan)
    assert EventRegistry().decode(recorded("InvoiceSent", NewEvent.of(event).data)) == event


@given(st.text(alphabet="\\u0\x00a", max_size=12))
def test_nul_is_found_wherever_backslashes_stand(note: str) -> None:
    if "\x00" in note:
        with pytest.raises(InvalidEvent, match=r"InvoiceSent\.note"):
            NewEvent.of(InvoiceSent(number=1, note=note))
    else:
        assert json.loads(NewEvent.of(InvoiceSent(number=1, note=note)).data)["note"] == note


def test_unknown_fields_are_passed_over_when_reading() -> None:
    assert EventRegistry().decode(recorded("InvoiceSent", '{"number": 1, "from_the_future": 2}')) == InvoiceSent(number=1)


def test_data_that_does_not_fit_says_where_and_not_what() -> None:
    with pytest.raises(InvalidEvent, match=r"position 7 of 'invoice-1'.*number") as caught:
        EventRegistry().decode(recorded("InvoiceSent", '{"number": "secret"}'))
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidEvent, match="number: Field required; colour: Extra"):
        EventRegistry().build("InvoiceSent", {"colour": "red"})


def test_registry_prefers_what_it_was_given_and_knows_what_was_imported() -> None:
    registry = EventRegistry()
    assert registry.find("InvoiceSent") is InvoiceSent
    with pytest.raises(UnknownEventType, match=r"class InvoiceLost\(Event\)") as caught:
        registry.find("InvoiceLost")
    assert caught.value.event_type == "InvoiceLost"


def test_two_classes_of_one_name_are_told_apart_by_registering() -> None:
    first = type("Twin", (Event,), {"__module__": "one"})
    second = type("Twin", (Event,), {"__module__": "two"})
    registry = EventRegistry()
    with pytest.raises(UnknownEventType, match="several event classes are named Twin"):
        registry.find("Twin")
    registry.register(second)
    assert registry.find("Twin") is second
    assert list(registry) == [second]
    registry.register(second)
    with pytest.raises(UsageError, match="two event classes are named Twin: two and one"):
        registry.register(first)


def test_reloaded_class_takes_its_own_place() -> None:
    registry = EventRegistry([type("Reloaded", (Event,), {"__module__": "here", "__qualname__": "Reloaded"})])
    again = type("Reloaded", (Event,), {"__module__": "here", "__qualname__": "Reloaded"})
    assert registry.register(again) is again
    assert registry.find("Reloaded") is again


@pytest.mark.parametrize(("name", "category"), [("order-1", "order"), ("order", "order"), ("order-1-2", "order"), ("a.b_c-é", "a.b_c")])
def test_category_stands_before_the_first_dash(name: str, category: str) -> None:
    assert category_of(check_stream_name(name)) == category


@given(st.text(max_size=600))
def test_stream_name_is_taken_or_refused_with_an_error_of_ours(name: str) -> None:
    try:
        assert check_stream_name(name) == name
    except InvalidStreamName:
        return
    name.encode()
    assert 1 <= len(name) <= 500
    assert "\x00" not in name


def test_event_in_a_stream_of_another_category_says_both_ways_out() -> None:
    with pytest.raises(UsageError, match=r'"invoice-…".*class InvoiceSent\(Event, category="order"\)'):
        prepare([InvoiceSent(number=1)], stream_name="order-1")


def test_correlation_starts_a_story_or_goes_on_with_one() -> None:
    event_id = uuid.UUID(int=5)
    assert with_correlation({}, event_id) == {"correlation_id": str(event_id)}
    with correlate(Correlation("story", "cause")):
        assert with_correlation({"a": "b"}, event_id) == {"correlation_id": "story", "causation_id": "cause", "a": "b"}
        assert with_correlation({"correlation_id": "mine"}, event_id)["correlation_id"] == "mine"
    assert with_correlation({}, event_id) == {"correlation_id": str(event_id)}


@given(st.integers(0, 2**40), st.integers(0, 2**62), st.integers(0, 2**40), st.integers(0, 2**62))
def test_positions_sort_by_epoch_and_then_place(epoch: int, place: int, other_epoch: int, other_place: int) -> None:
    one, other = LogPosition(epoch, place), LogPosition(other_epoch, other_place)
    assert LogPosition.parse(str(one)) == one
    assert (one < other) == ((epoch, place) < (other_epoch, other_place))


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "a:b", "1:2:3"])
def test_position_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|expected"):
        LogPosition.parse(text)
