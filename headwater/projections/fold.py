"""Pure folds: rows that events change, one row for each key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic_core import PydanticSerializationError

from headwater.errors import HeadwaterError, ProjectionError, ProjectionFailed, UsageError
from headwater.messages import Event, EventRegistry, RecordedEvent, faults
from headwater.projections.definition import Handler, Key, ProjectionDefinition, check_key, collect_handlers, key_text, projection_name_of

ERROR_CHARACTERS_MAX: Final = 2_000
"""How much of an exception's text is kept."""
SINGLE_ROW: Final = ""
"""The key of the only row of a projection without a key."""


class Projection(BaseModel):
    """A read model made by folding events: subclass it, give it fields with defaults, and methods marked with `@on` that change `self`.

        class UnitsOrdered(Projection, key="sku"):
            units: int = 0

            @on(OrderPlaced)
            def ordered(self, event: OrderPlaced) -> None:
                self.units += event.quantity

    The key says which row an event belongs to: an attribute of its events, or a function of the event; an event whose key is None touches no
    row, and without a key there is one row. Rows are stored as JSON by the key's text, which a row gives as `row_key`. Methods must be
    pure: no waiting, no clock, no randomness, or a rebuild would come out otherwise.
    """

    model_config = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings")

    projection_name: ClassVar[str] = ""
    __headwater_definition__: ClassVar[ProjectionDefinition]
    _row_key: str = PrivateAttr(default=SINGLE_ROW)

    def __init_subclass__(cls, *, key: Key = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, key: Key = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if key is None:
            inherited = (vars(base).get("__headwater_definition__") for base in cls.__mro__[1:])
            key = next((found.key for found in inherited if isinstance(found, ProjectionDefinition)), None)
        handlers = collect_handlers(cls, is_sql=False)
        check_key(cls, key, handlers)
        if required := [name for name, field in cls.model_fields.items() if field.is_required()]:
            raise UsageError(
                f"{cls.__name__}: the field {required[0]!r} needs a default, for a row begins before its first event: {required[0]}: … = …"
            )
        cls.projection_name = projection_name_of(cls.__name__)
        cls.__headwater_definition__ = ProjectionDefinition(cls.projection_name, cls, False, handlers, key)

    @property
    def row_key(self) -> str:
        """The text of the key that this row is stored under."""
        return self._row_key

    @classmethod
    def event_classes(cls) -> tuple[type[Event], ...]:
        """The events it takes."""
        return cls.__headwater_definition__.event_classes

    @classmethod
    def shape_parts(cls) -> object:
        """What its rows look like, for recognising a changed definition."""
        return [(name, str(field.annotation), repr(field.default)) for name, field in sorted(cls.model_fields.items())]


ProjectionT = TypeVar("ProjectionT", bound=Projection)


@dataclass(frozen=True, slots=True)
class Step:
    """One event that a projection takes, decoded."""

    recorded: RecordedEvent
    handler: Handler
    event: Event
    key: str | None
    """Of the row it belongs to; None for SQL projections."""


def steps_of(definition: ProjectionDefinition, registry: EventRegistry, events: Iterable[RecordedEvent]) -> Iterator[Step]:
    """Those of the events that the projection takes, in order; events whose key is None are passed over.

    Raises:
        ProjectionFailed: an event does not fit its class, or its key cannot be told.
    """
    handlers = definition.handlers
    type_of = None if registry.upcaster is None else registry.upcaster.current_type
    for recorded in events:
        handler = handlers.get(recorded.type if type_of is None else type_of(recorded.type))
        if handler is None or recorded.category != handler.event_class.event_category:
            continue
        try:
            event = registry.decode(recorded)
            key = None if definition.is_sql else _row_key_of(definition.key, event)
        except Exception as error:
            raise failed(definition, recorded, error) from error
        if definition.is_sql or key is not None:
            yield Step(recorded, handler, event, key)


def fold_steps(definition: ProjectionDefinition, rows: dict[str, Projection], steps: Iterable[Step]) -> None:
    """Let the events change the rows, in order; missing rows begin with their defaults.

    Raises:
        ProjectionFailed: a method raised; the rows are then of no use.
    """
    projection_class = _fold_class(definition)
    for step in steps:
        assert step.key is not None, "a fold's steps have keys"
        try:
            row = rows.get(step.key)
            if row is None:
                row = rows[step.key] = _with_key(projection_class(), step.key)
            step.handler.function(row, step.event)
        except Exception as error:
            raise failed(definition, step.recorded, error) from error


def encode_row(definition: ProjectionDefinition, row: Projection, steps: Iterable[Step]) -> str:
    """The row as it is stored.

    Raises:
        ProjectionFailed: a field holds what its annotation does not allow; blamed on the first of the steps that touched the row.
    """
    try:
        return row.model_dump_json(warnings="error")
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        recorded = next((step.recorded for step in steps if step.key == row.row_key), None)
        if recorded is None:
            raise ProjectionError(f"the row {row.row_key!r} of {definition.name} cannot be written as JSON: {error}") from error
        raise failed(definition, recorded, error) from error


def decode_row(projection_class: type[ProjectionT], key: str, state: str) -> ProjectionT:
    """A stored row; fields that the class no longer has are passed over.

    Raises:
        ProjectionError: the row was made by another definition, which this class cannot read.
    """
    try:
        return _with_key(projection_class.model_validate_json(state, extra="ignore"), key)
    except ValidationError as error:
        raise ProjectionError(
            f"the row {key!r} of {projection_class.projection_name} does not fit the class ({faults(error)}): the projection's fields have "
            f"changed; rebuild it: headwater replay {projection_class.projection_name}"
        ) from None


def failed(definition: ProjectionDefinition, recorded: RecordedEvent, error: Exception) -> ProjectionFailed:
    """What a projection raised, with the event at which it did."""
    kind = "" if isinstance(error, HeadwaterError) else f"{type(error).__name__}: "
    return ProjectionFailed(
        f"the projection {definition.name} failed at {recorded.type}, position {recorded.global_position}, version {recorded.version} of "
        f"{recorded.stream_name!r}: {kind}{str(error)[:ERROR_CHARACTERS_MAX]}",
        projection=definition.name,
        global_position=recorded.global_position,
    )


def _row_key_of(key: Key, event: Event) -> str | None:
    if key is None:
        return SINGLE_ROW
    value: object = getattr(event, key) if isinstance(key, str) else key(event)
    return None if value is None else key_text(value)


def _with_key(row: ProjectionT, key: str) -> ProjectionT:
    row._row_key = key  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - this module makes the rows
    return row


def _fold_class(definition: ProjectionDefinition) -> type[Projection]:
    assert issubclass(definition.projection_class, Projection), "only folds are folded"
    return definition.projection_class
