"""Folding without a database."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import Field

from headwater.errors import ProjectionError, ProjectionFailed
from headwater.messages import Event, EventRegistry, NewEvent, RecordedEvent
from headwater.projections import Projection, definition_of, fold_steps, on, steps_of
from headwater.projections.fold import decode_row, encode_row


class CupFilled(Event):
    cup: str | None = None
    millilitres: int = 0


class CupBroken(Event):
    cup: str


class CupLevel(Projection, key="cup"):
    millilitres: int = 0
    names: set[str] = Field(default_factory=set)
    price: Decimal = Decimal(0)

    @on(CupFilled)
    def filled(self, event: CupFilled) -> None:
        self.millilitres += event.millilitres
        if event.cup:
            self.names.add(event.cup)

    @on(CupBroken)
    def broken(self, event: CupBroken) -> None:
        raise RuntimeError("shards everywhere")


class AllCups(Projection):
    fillings: int = 0

    @on(CupFilled)
    def filled(self, event: CupFilled) -> None:
        self.fillings += 1


REGISTRY = EventRegistry([CupFilled, CupBroken])


def recorded(*events: Event, stream_name: str = "cup-1") -> list[RecordedEvent]:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    new = [NewEvent.of(event) for event in events]
    return [RecordedEvent(i, stream_name, i, e.type, e.data, {}, e.event_id, moment) for i, e in enumerate(new, start=1)]


def fold(projection_class: type[Projection], events: list[RecordedEvent]) -> dict[str, Projection]:
    rows: dict[str, Projection] = {}
    definition = definition_of(projection_class)
    fold_steps(definition, rows, steps_of(definition, REGISTRY, events))
    return rows


def test_events_go_to_the_row_of_their_key_and_those_without_one_to_none() -> None:
    rows = fold(CupLevel, recorded(CupFilled(cup="a", millilitres=1), CupFilled(millilitres=5), CupFilled(cup="b", millilitres=2)))
    assert {key: row.model_dump()["millilitres"] for key, row in rows.items()} == {"a": 1, "b": 2}
    assert rows["a"].row_key == "a"


def test_a_projection_without_key_has_one_row() -> None:
    (row,) = fold(AllCups, recorded(CupFilled(), CupFilled())).values()
    assert (row.row_key, row.model_dump()) == ("", {"fillings": 2})


def test_events_of_other_categories_are_passed_over() -> None:
    assert fold(AllCups, recorded(CupFilled(), stream_name="saucer-1")) == {}


def test_what_raises_names_the_event() -> None:
    with pytest.raises(
        ProjectionFailed, match=r"cup_level failed at CupBroken, position 2, version 2 of 'cup-1': RuntimeError: shards"
    ) as caught:
        fold(CupLevel, recorded(CupFilled(cup="a"), CupBroken(cup="a")))
    assert caught.value.global_position == 2


def test_a_row_that_breaks_its_own_annotations_is_not_stored() -> None:
    definition = definition_of(CupLevel)
    row = CupLevel()
    row.millilitres = "much"  # type: ignore[assignment]
    with pytest.raises(ProjectionError, match="cannot be written as JSON"):
        encode_row(definition, row, ())


@given(some.lists(some.tuples(some.sampled_from("abc"), some.integers(0, 10**9)), max_size=30), some.integers(0, 30))
def test_folding_in_two_batches_through_storage_equals_folding_at_once(fillings: list[tuple[str, int]], cut: int) -> None:
    definition = definition_of(CupLevel)
    events = recorded(*(CupFilled(cup=cup, millilitres=amount) for cup, amount in fillings))
    at_once = fold(CupLevel, events)
    rows = fold(CupLevel, events[:cut])
    rows = {key: decode_row(CupLevel, key, encode_row(definition, row, ())) for key, row in rows.items()}
    fold_steps(definition, rows, steps_of(definition, REGISTRY, events[cut:]))
    assert rows == at_once


def test_a_stored_row_of_an_older_class_reads_as_far_as_it_fits() -> None:
    assert decode_row(AllCups, "", '{"fillings": 3, "gone": 1}').fillings == 3
    with pytest.raises(ProjectionError, match="rebuild it: headwater replay all_cups"):
        decode_row(AllCups, "", '{"fillings": "many"}')
