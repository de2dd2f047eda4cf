"""Read models in the user's own tables."""

from __future__ import annotations

from typing import Any, ClassVar

from headwater.errors import UsageError
from headwater.messages import Event
from headwater.projections.definition import ProjectionDefinition, collect_handlers, projection_name_of


class SqlProjection:
    """A read model in tables of its own: subclass it, say its tables, and give it async methods marked with `@on`.

        class Shipments(SqlProjection):
            tables = "CREATE TABLE shipments (order_id uuid PRIMARY KEY, shipped_on date)"

            @on(OrderShipped)
            async def shipped(self, event: OrderShipped, connection: Connection) -> None:
                await connection.execute("INSERT INTO shipments VALUES ($1, $2)", event.order_id, event.shipped_on)

    Unqualified names mean the tables of the version at hand, whose schema alone is searched: a rebuild fills a second set of them. What
    stands elsewhere (an extension's types in `public`) needs its schema's name. The methods run inside the transaction that moves the
    projection's checkpoint; they must not end it, nor wait for anything but the database.
    """

    tables: ClassVar[str] = ""
    """SQL that creates the tables, run once for each version in its own schema."""
    projection_name: ClassVar[str] = ""
    __headwater_definition__: ClassVar[ProjectionDefinition]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        handlers = collect_handlers(cls, is_sql=True)
        if handlers and not cls.tables.strip():
            raise UsageError(f"{cls.__name__} says no tables; give the SQL that creates them: tables = '…'")
        cls.projection_name = projection_name_of(cls.__name__)
        cls.__headwater_definition__ = ProjectionDefinition(cls.projection_name, cls, True, handlers)

    @classmethod
    def event_classes(cls) -> tuple[type[Event], ...]:
        """The events it takes."""
        return cls.__headwater_definition__.event_classes

    @classmethod
    def shape_parts(cls) -> object:
        """What its tables look like, for recognising a changed definition."""
        return " ".join(cls.tables.split())
