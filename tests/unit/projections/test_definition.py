"""What a projection class may look like, said when it is imported."""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

import pytest

from headwater.errors import UsageError
from headwater.messages import Event
from headwater.projections import Projection, SqlProjection, definition_of, key_text, on


class TeaOrdered(Event):
    sku: str
    quantity: int = 1


class TeaShipped(Event):
    sku: str


class TeaPraised(Event):
    stars: int


def test_a_projection_is_named_after_its_class() -> None:
    class UnitsOrdered(Projection, key="sku"):
        units: int = 0

        @on(TeaOrdered, TeaShipped)
        def counted(self, event: TeaOrdered | TeaShipped) -> None:
            self.units += 1

    definition = definition_of(UnitsOrdered)
    assert (UnitsOrdered.projection_name, definition.schema_name(), definition.schema_name("next")) == (
        "units_ordered",
        "projection_units_ordered",
        "projection_units_ordered__next",
    )
    assert set(UnitsOrdered.event_classes()) == {TeaOrdered, TeaShipped}


@pytest.mark.parametrize("class_name", ["P" * 41, "Tea_", "Tea__Next", "Größe", "_Hidden"])
def test_a_class_whose_name_cannot_name_a_schema_is_refused(class_name: str) -> None:
    with pytest.raises(UsageError, match="names its schema"):
        type(class_name, (SqlProjection,), {})


@pytest.mark.parametrize(
    ("class_name", "name"), [("SKUTotals", "sku_totals"), ("Tea", "tea"), ("OrdersV2", "orders_v2"), ("HTTPCallsByIP", "http_calls_by_ip")]
)
def test_names_in_snake_case(class_name: str, name: str) -> None:
    assert type(class_name, (SqlProjection,), {}).projection_name == name


def test_an_event_without_the_key_field_is_named() -> None:
    with pytest.raises(UsageError, match=r"Praise: TeaPraised has no field 'sku'.*its fields: stars"):

        class Praise(Projection, key="sku"):
            @on(TeaPraised)
            def praised(self, event: TeaPraised) -> None: ...


def test_a_field_without_default_is_named() -> None:
    with pytest.raises(UsageError, match="the field 'units' needs a default"):

        class Units(Projection, key="sku"):
            units: int

            @on(TeaOrdered)
            def ordered(self, event: TeaOrdered) -> None: ...


def test_an_annotation_of_another_event_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Units.ordered is marked @on\(TeaOrdered\), but its parameter is annotated TeaShipped"):

        class Units(Projection, key="sku"):
            @on(TeaOrdered)
            def ordered(self, event: TeaShipped) -> None: ...


def test_methods_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"must be written: def ordered\(self, event\)"):

        class Units(Projection, key="sku"):
            @on(TeaOrdered)
            async def ordered(self, event: TeaOrdered) -> None: ...

    with pytest.raises(UsageError, match=r"must be written: async def ordered\(self, event, connection\)"):

        class Units2(SqlProjection):
            tables = "CREATE TABLE units (sku text)"

            @on(TeaOrdered)
            async def ordered(self, event: TeaOrdered) -> None: ...

    with pytest.raises(UsageError, match="plain method, not on staticmethod"):

        class Units3(Projection):
            @on(TeaOrdered)
            @staticmethod
            def ordered(event: TeaOrdered) -> None: ...


def test_two_methods_for_one_event_are_refused() -> None:
    with pytest.raises(UsageError, match="both ordered and again take TeaOrdered"):

        class Units(Projection, key="sku"):
            @on(TeaOrdered)
            def ordered(self, event: TeaOrdered) -> None: ...

            @on(TeaOrdered)
            def again(self, event: TeaOrdered) -> None: ...


def test_on_without_an_event_class_is_refused() -> None:
    for wrong in ((), (Event,), (str,), (lambda event: None,)):
        with pytest.raises(UsageError, match="@on names the event classes"):
            on(*wrong)  # type: ignore[arg-type]


def test_a_projection_that_takes_nothing_is_refused_when_it_is_used() -> None:
    class Forgotten(Projection):
        units: int = 0

    with pytest.raises(UsageError, match="Forgotten takes no events"):
        definition_of(Forgotten)
    with pytest.raises(UsageError, match="is no projection"):
        definition_of(Projection)
    with pytest.raises(UsageError, match="is no projection"):
        definition_of(TeaOrdered)  # type: ignore[arg-type]


def test_sql_projections_say_their_tables() -> None:
    with pytest.raises(UsageError, match="says no tables"):

        class Units(SqlProjection):
            @on(TeaOrdered)
            async def ordered(self, event: TeaOrdered, connection: Any) -> None: ...


def test_subclasses_inherit_key_and_methods() -> None:
    class Base(Projection, key="sku"):
        units: int = 0

        @on(TeaOrdered)
        def ordered(self, event: TeaOrdered) -> None:
            self.units += event.quantity

    class Doubled(Base):
        def ordered(self, event: TeaOrdered) -> None: ...

        @on(TeaOrdered)
        def doubled(self, event: TeaOrdered) -> None:
            self.units += 2 * event.quantity

    assert definition_of(Doubled).key == "sku"
    assert Doubled.projection_name == "doubled"
    assert definition_of(Doubled).handlers["TeaOrdered"].function.__name__ == "doubled"


class Colour(Enum):
    RED = "red"


def test_keys_become_text_that_can_be_stored() -> None:
    assert key_text(UUID(int=1)) == "00000000-0000-0000-0000-000000000001"
    assert (key_text(Colour.RED), key_text(7)) == ("red", "7")
    for wrong in ("a\x00b", "x" * 2_001, "ü" * 1_001):
        with pytest.raises(UsageError, match="cannot name a row"):
            key_text(wrong)


def _units(step: int, default: int = 0, doc: str = "") -> type[Projection]:
    if step == 1:

        class Units(Projection, key="sku"):
            units: int = default

            @on(TeaOrdered)
            def ordered(self, event: TeaOrdered) -> None:
                """Counts."""
                self.units += 1

        return Units

    class Units(Projection, key="sku"):  # type: ignore[no-redef]
        units: int = default

        @on(TeaOrdered)
        def ordered(self, event: TeaOrdered) -> None:
            """Counts otherwise."""
            self.units += 2

    return Units


def test_fingerprints_tell_definitions_apart() -> None:
    first, again, other_code, other_field = (definition_of(c) for c in (_units(1), _units(1), _units(2), _units(1, default=5)))
    assert (first.shape, first.fingerprint) == (again.shape, again.fingerprint)
    assert first.shape == other_code.shape
    assert first.fingerprint != other_code.fingerprint
    assert first.shape != other_field.shape

    class A(SqlProjection):
        tables: ClassVar[str] = "CREATE TABLE a (x int)"

        @on(TeaOrdered)
        async def ordered(self, event: TeaOrdered, connection: Any) -> None: ...

    class B(SqlProjection):
        tables: ClassVar[str] = "CREATE TABLE a (x bigint)"

        @on(TeaOrdered)
        async def ordered(self, event: TeaOrdered, connection: Any) -> None: ...

    assert definition_of(A).shape != definition_of(B).shape
