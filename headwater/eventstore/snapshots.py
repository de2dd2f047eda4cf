"""Snapshots: the state of a long stream at one of its events, so that a decision reads only what came after it.

Who is authoritative: the stream. A snapshot may be missing, old or wrong; then it is passed over, and costs a longer read. It is believed only if
its shape is the one that the decider has now, and if the stream still has the very event that it was taken at.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Final, Generic, Protocol, TypeVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from headwater.errors import UsageError
from headwater.personal import hidden_mark, personal_fields_of
from headwater.postgres import CallerConnection

SNAPSHOT_INTERVAL_EVENTS: Final = 100
"""How many events are read before a snapshot is taken, where the decider does not say."""
SNAPSHOT_CHARACTERS_MAX: Final = 16 * 1024 * 1024
"""The longest state that is kept as a snapshot, in characters of JSON."""
DECIDER_NAME_CHARACTERS_MAX: Final = 200
_SAYS_TOO_LITTLE: Final = (NoneType, dict, list, tuple, set, frozenset)
"""Classes of an initial state that do not tell what later states hold."""

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Snapshots:
    """How a decider's states are kept as snapshots: `Decider(..., name="order", snapshots=Snapshots(every=100))`."""

    every: int = SNAPSHOT_INTERVAL_EVENTS
    """A snapshot is taken when so many events came since the last one; 1 or more."""
    version: int = 1
    """Raise it when `evolve` makes other states of the same events: older snapshots are then dropped. A changed state class is noticed by itself."""
    state_type: Any = None
    """What the states are, for pydantic: `OrderState`, `Draft | Placed`, `dict[str, int]`. By default the class of the initial state."""
    holds_personal_data: bool = True
    """Whether states may hold what events hold in personal fields. Then only a model with marked fields is kept, sealed; say False where they hold
    none of it. It makes no difference where events have no personal fields."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stream's state at one of its events, encoded."""

    stream_name: str
    decider_name: str
    version: int
    event_id: UUID
    """The event at that version."""
    shape: str
    """Recognises what the state looks like: see `StateCodec.shape`."""
    state: str


class SnapshotStore(Protocol):
    """Keeps at most one snapshot for each stream and decider.

    With `connection` each call joins the caller's transaction; without, it stands for itself.
    """

    async def load(self, stream_name: str, decider_name: str, *, connection: CallerConnection | None = None) -> Snapshot | None:
        """The snapshot, if there is one, whatever its shape.

        Raises:
            StorageUnavailable: the server is away.
        """
        ...

    async def save(self, snapshot: Snapshot, *, connection: CallerConnection | None = None) -> None:
        """Keep it in place of an older one, or of one of another shape; a newer one of the same shape stays.

        Raises:
            StorageUnavailable: the server is away; whether it was kept makes no difference.
        """
        ...

    async def drop(self, snapshot: Snapshot, *, connection: CallerConnection | None = None) -> None:
        """Delete exactly this one; another that has taken its place stays.

        Raises:
            StorageUnavailable: the server is away.
        """
        ...


class StateCodec(Generic[State]):
    """States as text and back. All state that goes into a snapshot or comes out of one passes through `encode` and `decode`."""

    def __init__(self, snapshots: Snapshots, *, decider_name: str, initial_state: State) -> None:
        """Prepare for the states of one decider.

        Raises:
            UsageError: the decider has no name, or pydantic cannot write its states as JSON.
        """
        _check(snapshots, decider_name)
        self.decider_name, self.every = decider_name, snapshots.every
        state_type = _state_type(snapshots, decider_name, initial_state)
        self.personal_class = _personal_class(state_type, decider_name)
        """The model whose marked fields are sealed; None where nothing is marked."""
        if self.personal_class is not None and not snapshots.holds_personal_data:
            raise UsageError(
                f"states of the decider {decider_name!r} have personal fields, and Snapshots(holds_personal_data=False) says otherwise; remove one of them"
            )
        self.may_hold_unmarked = self.personal_class is None and snapshots.holds_personal_data
        """Whether personal data of events could be in the states, and nobody said where."""
        self.is_refusal_told = False
        """Whether the log says already that no snapshots are kept for that reason."""
        try:
            self._adapter: TypeAdapter[State] = TypeAdapter(state_type)
            schema = self._adapter.json_schema()
        except (PydanticUserError, PydanticUndefinedAnnotation) as error:
            raise UsageError(
                f"states of the decider {decider_name!r} cannot be kept as snapshots, for pydantic cannot write {state_type!r} as JSON: {error.message}"
            ) from None
        self.shape = hashlib.sha256(json.dumps([snapshots.version, schema, *self._privacy(snapshots)], sort_keys=True).encode()).hexdigest()
        """Another one for another JSON schema of the state, other personal fields, or another `Snapshots.version`."""

    def _privacy(self, snapshots: Snapshots) -> list[object]:
        """What must be the same for a snapshot's text to be read as it was written: which fields are sealed, or that none need be."""
        fields = None if self.personal_class is None else personal_fields_of(self.personal_class)
        if fields is not None:
            return [sorted(fields.by_name)]
        return [] if snapshots.holds_personal_data else ["holds no personal data"]

    def encode(self, state: State) -> str:
        """The state as JSON text.

        Raises:
            ValueError: it cannot be written, is too long, or would not come back equal. The message has nothing of the state.
        """
        text = self._adapter.dump_json(state, warnings="error").decode()
        if len(text) > SNAPSHOT_CHARACTERS_MAX:
            raise ValueError(f"it takes {len(text):,} characters as JSON; at most {SNAPSHOT_CHARACTERS_MAX:,} are kept")
        if self.decode(text) != state:
            raise ValueError(
                "it does not come back equal from JSON; say what it is with Snapshots(state_type=...), and give its class an __eq__"
            )
        return text

    def decode(self, text: str) -> State:
        """What `encode` wrote.

        Raises:
            ValueError: it is no state.
        """
        return self._adapter.validate_json(text)

    def sealed_class(self, text: str) -> type[BaseModel] | None:
        """Whose fields are sealed in this state's text; None where there is nothing to seal."""
        return None if text == "null" else self.personal_class


def _state_type(snapshots: Snapshots, decider_name: str, initial_state: object) -> Any:
    if snapshots.state_type is not None:
        return snapshots.state_type
    state_type = type(initial_state)
    if state_type in _SAYS_TOO_LITTLE:
        raise UsageError(
            f"the initial state {initial_state!r} of the decider {decider_name!r} does not tell what later states are; "
            "say it: Snapshots(state_type=dict[str, int])"
        )
    return state_type


def _personal_class(state_type: Any, decider_name: str) -> type[BaseModel] | None:
    """The model with marked fields that the states are, `None` beside it allowed.

    Raises:
        UsageError: fields are marked elsewhere in the type, where they would not be sealed.
    """
    several = get_args(state_type) if get_origin(state_type) in (Union, UnionType) else (state_type,)
    match [one for one in several if one is not NoneType]:
        case [type() as only] if issubclass(only, BaseModel):
            return only if personal_fields_of(only) is not None else None
        case _ if (hidden := hidden_mark(state_type)) is not None:
            raise UsageError(
                f"states of the decider {decider_name!r} have personal fields where snapshots cannot seal them ({hidden}): of what is kept as a snapshot, "
                "mark fields of a pydantic model that is the whole state, or leave snapshots= out"
            )
        case _:
            return None


def _check(snapshots: Snapshots, decider_name: str) -> None:
    if snapshots.every < 1:
        raise UsageError(f"Snapshots(every={snapshots.every}): give the number of events after which a snapshot is taken, 1 or more")
    if not 1 <= len(decider_name) <= DECIDER_NAME_CHARACTERS_MAX or not decider_name.isprintable():
        raise UsageError(
            f"the decider name {decider_name!r} cannot name snapshots; give one of 1 to {DECIDER_NAME_CHARACTERS_MAX} printable characters "
            'that stays the same: Decider(..., name="order", snapshots=Snapshots())'
        )
