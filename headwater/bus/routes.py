"""Who handles which events."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from headwater.bus.retries import DEFAULT_POLICY, HandlerPolicy
from headwater.messages import Event


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function."""

    name: str
    """Its qualified name: what dead letters and idempotency keys call it. Renaming it makes it another handler."""
    function: Callable[..., Coroutine[Any, Any, None]]
    takes_context: bool
    event_classes: tuple[type[Event], ...]
    """Those that it names; none where it takes everything of a category."""
    needs: tuple[tuple[str, type], ...] = ()
    """Its keyword-only parameters and their classes: what providers make for it."""
    takes_batch: bool = False
    """It is given a list: all of its events in a transaction at once."""
    policy: HandlerPolicy = DEFAULT_POLICY
    lanes: int = 0
    """So many keys of a partition at once; 0: together with other messages and handlers, in batches."""
    category: str | None = None
    """It takes everything of this category."""
    takes_recorded: bool = False
    """It is given events as they are in the log, not as their classes."""


@dataclass(frozen=True, slots=True)
class Route:
    """What to do with one type of event."""

    event_class: type[Event] | None
    """None where only handlers of a whole category want it: its class is looked for when one of them asks."""
    handlers: tuple[Handler, ...]
    batched: tuple[Handler, ...] = field(init=False)
    """Those that share transactions with other messages."""
    laned: tuple[Handler, ...] = field(init=False)
    """Those that run in lanes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "batched", tuple(handler for handler in self.handlers if not handler.lanes))
        object.__setattr__(self, "laned", tuple(handler for handler in self.handlers if handler.lanes))


@dataclass(frozen=True, slots=True)
class Routes:
    """What to do with the events of one category."""

    by_type: Mapping[str, Route]
    others: Route | None = None
    """For all types but these."""

    def find(self, event_type: str) -> Route | None:
        """Who wants events of this type."""
        return self.by_type.get(event_type, self.others)

    @property
    def has_lanes(self) -> bool:
        """Whether some handler runs in lanes."""
        return any(route.laned for route in self.by_type.values()) or (self.others is not None and bool(self.others.laned))
