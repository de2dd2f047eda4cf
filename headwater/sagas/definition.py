"""What a saga is: its name, the events it takes, its steps and deadlines; every mistake that can be seen at import is refused there."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from headwater.errors import UsageError
from headwater.messages import Event
from headwater.sagas.progress import Outcome
from headwater.sagas.values import UNDO_ATTEMPTS_MAX, UNDO_WITHIN

if TYPE_CHECKING:
    from headwater.sagas.saga import Saga

NAME_CHARACTERS_MAX: Final = 60
"""The longest name of a saga, a step or a deadline."""
KEY_CHARACTERS_MAX: Final = 300
"""The longest key: together with a category it names the stream of the saga's commands."""

Key: TypeAlias = "str | Callable[[Any], object]"
Unmatched: TypeAlias = Literal["ignore", "fail"]
MethodT = TypeVar("MethodT", bound=Callable[..., object])

ON_MARK: Final = "__headwater_events__"
"""What `headwater.on` leaves on a method; projections read the same."""
_STARTS_MARK: Final = "__headwater_starts__"
_DEADLINE_MARK: Final = "__headwater_deadlines__"
_COMPENSATED_MARK: Final = "__headwater_compensated__"
_NAME = re.compile(r"[a-z](?:_?[a-z0-9])*")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Step:
    """A part of a saga that another service, or this one, carries out on command: `reserve_stock = Step(done_by=StockReserved, …)`.

    Args:
        done_by: the event, or events, that say it was done.
        failed_by: those that say it had no effect. Unless a method takes them, such an event makes the saga compensate.
        undone_by: those that say its compensation took effect; without, a compensation counts as soon as it is sent.
        undone_within: when to send an unconfirmed compensation again.
        undo_attempts_max: how often it is sent before the saga waits for a person.
    """

    __slots__ = ("answers", "name", "undo_attempts_max", "undone_within")

    def __init__(
        self,
        *,
        done_by: type[Event] | tuple[type[Event], ...] = (),
        failed_by: type[Event] | tuple[type[Event], ...] = (),
        undone_by: type[Event] | tuple[type[Event], ...] = (),
        undone_within: timedelta = UNDO_WITHIN,
        undo_attempts_max: int = UNDO_ATTEMPTS_MAX,
    ) -> None:
        self.name = ""
        self.answers: dict[type[Event], Outcome] = {}
        for outcome, given in ((Outcome.DONE, done_by), (Outcome.FAILED, failed_by), (Outcome.UNDONE, undone_by)):
            for event_class in given if isinstance(given, tuple) else (given,):
                _check_event_class(event_class, f"Step({outcome}_by=…)")
                if event_class in self.answers:
                    raise UsageError(f"Step: {event_class.__name__} cannot say two things of one step")
                self.answers[event_class] = outcome
        if undone_within <= timedelta(0) or undo_attempts_max < 1:
            raise UsageError("Step: undone_within must be longer than nothing, and undo_attempts_max at least 1")
        self.undone_within, self.undo_attempts_max = undone_within, undo_attempts_max

    def __set_name__(self, owner: type, name: str) -> None:
        if self.name and self.name != name:
            raise UsageError(f"{owner.__name__}: {name} is the same step as {self.name}; write Step(…) for each")
        self.name = name

    def __repr__(self) -> str:
        return f"Step({self.name!r})"

    @property
    def awaits_confirmation(self) -> bool:
        return Outcome.UNDONE in self.answers.values()


def starts_on(*event_classes: type[Event]) -> Callable[[MethodT], MethodT]:
    """Mark the method with which a saga begins: `async def placed(self, event, saga)`. A second such event for the same key does nothing.

    Raises:
        UsageError: at import, when no event class is named.
    """
    if not event_classes:
        raise UsageError("@starts_on names the events that begin the saga: @starts_on(OrderPlaced)")
    for event_class in event_classes:
        _check_event_class(event_class, "@starts_on")
    return _marker(_STARTS_MARK, event_classes)


def on_deadline(*names: str) -> Callable[[MethodT], MethodT]:
    """Mark the method that acts when a deadline passes: `async def unpaid(self, saga)`.

    Raises:
        UsageError: at import, when no name is given.
    """
    for name in names:
        if not _is_name(name):
            raise UsageError(f'@on_deadline({name!r}): name deadlines with 1 to {NAME_CHARACTERS_MAX} characters, @on_deadline("payment")')
    if not names:
        raise UsageError('@on_deadline names the deadlines that the method acts on: @on_deadline("payment")')
    return _marker(_DEADLINE_MARK, names)


def when_compensated(method: MethodT) -> MethodT:
    """Mark the method that is called once every step is undone: `async def cancelled(self, saga)`."""
    return _marker(_COMPENSATED_MARK, True)(method)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an event says of a step."""

    step: Step
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class SagaDefinition:
    """A saga, checked and ready to run."""

    name: str
    saga_class: type[Saga]
    key: Key
    ends_within: timedelta
    unmatched: Unmatched
    starts: Mapping[str, Callable[..., Any]]
    """By event type."""
    handlers: Mapping[str, Callable[..., Any]]
    """By event type."""
    answers: Mapping[str, Answer]
    """By event type."""
    deadlines: Mapping[str, Callable[..., Any]]
    """By name."""
    compensated: Callable[..., Any] | None
    steps: Mapping[str, Step]
    event_classes: tuple[type[Event], ...]

    def key_of(self, event: Event) -> str | None:
        """Which saga an event belongs to; None for none.

        Raises:
            UsageError: the key cannot be stored.
        """
        value: object = getattr(event, self.key) if isinstance(self.key, str) else self.key(event)
        return None if value is None else key_text(value)


def definition_of(saga_class: type[Saga]) -> SagaDefinition:
    """The checked definition of a saga.

    Raises:
        UsageError: it is none, or nothing begins it.
    """
    found: object = getattr(saga_class, "__headwater_saga__", None)
    if not isinstance(found, SagaDefinition):
        raise UsageError(f'{saga_class!r} is no saga; give a subclass of Saga, class OrderFulfilment(Saga, key="order_id")')
    return found


def define(saga_class: type[Saga], key: Key | None, ends_within: timedelta, unmatched: Unmatched) -> SagaDefinition:
    """Check a class that is being made.

    Raises:
        UsageError: saying what is wrong with it and how to write it.
    """
    name = saga_class.__name__
    members = _members(saga_class)
    steps = {step.name: step for step in members.values() if isinstance(step, Step)}
    answers = _answers(name, steps)
    starts = _by_event(name, members, _STARTS_MARK)
    handlers = _by_event(name, members, ON_MARK)
    if not starts:
        raise UsageError(f"{name}: nothing begins this saga; mark a method with @starts_on(OrderPlaced)")
    for event_type in starts.keys() & (handlers.keys() | answers.keys()):
        raise UsageError(
            f"{name}: {event_type} begins the saga and cannot also be taken by a running one; let another event do one of the two"
        )
    event_classes = _event_classes(members, steps)
    _check_key(name, key, event_classes)
    assert key is not None, "was just checked"
    _check_options(saga_class, ends_within, unmatched)
    return SagaDefinition(
        name=saga_name_of(name),
        saga_class=saga_class,
        key=key,
        ends_within=ends_within,
        unmatched=unmatched,
        starts=starts,
        handlers=handlers,
        answers=answers,
        deadlines=_by_deadline(name, members),
        compensated=_compensated(name, members),
        steps=steps,
        event_classes=event_classes,
    )


def saga_name_of(class_name: str) -> str:
    """The class's name in snake case, by which its sagas are stored.

    Raises:
        UsageError: it is too long, or has what a name should not.
    """
    name = _WORD_START.sub("_", class_name).lower()
    if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise UsageError(
            f"the saga class {class_name} would be named {name!r}; use at most {NAME_CHARACTERS_MAX} letters, digits and single underscores"
        )
    return name


def key_text(key: object) -> str:
    """A saga's key as it is stored.

    Raises:
        UsageError: it cannot be stored.
    """
    text = str(key.value if isinstance(key, Enum) else key)
    if not 1 <= len(text) <= KEY_CHARACTERS_MAX or _CONTROL.search(text):
        raise UsageError(
            f"the key {text[:40]!r} cannot name a saga: use 1 to {KEY_CHARACTERS_MAX} characters, without control characters or half surrogates"
        )
    return text


# -- collecting --------------------------------------------------------------------------------------------------------


def _marker(mark: str, value: object) -> Callable[[MethodT], MethodT]:
    def leave(method: MethodT) -> MethodT:
        try:
            setattr(method, mark, value)
        except AttributeError:
            raise UsageError(f"a saga's methods are plain `async def`; {type(method).__name__} cannot be marked") from None
        return method

    return leave


def _members(saga_class: type) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for base in reversed(saga_class.__mro__):
        members.update(vars(base))
    return members


def _marked(members: Mapping[str, Any], mark: str) -> list[tuple[Callable[..., Any], Any]]:
    return [(member, getattr(member, mark)) for member in members.values() if hasattr(member, mark)]


def _by_event(saga: str, members: Mapping[str, Any], mark: str) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for method, event_classes in _marked(members, mark):
        for event_class in cast("tuple[type[Event], ...]", event_classes):
            _check_method(saga, method, 3, "(self, event, saga)")
            _check_annotation(saga, method, event_class)
            if (other := found.get(event_class.event_type)) is not None:
                raise UsageError(
                    f"{saga}: both {other.__name__} and {method.__name__} take {event_class.event_type}; let one method take it"
                )
            found[event_class.event_type] = method
    return found


def _by_deadline(saga: str, members: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for method, names in _marked(members, _DEADLINE_MARK):
        _check_method(saga, method, 2, "(self, saga)")
        for name in cast("tuple[str, ...]", names):
            if name in found:
                raise UsageError(f"{saga}: two methods act on the deadline {name!r}; let one method do it")
            found[name] = method
    return found


def _compensated(saga: str, members: Mapping[str, Any]) -> Callable[..., Any] | None:
    methods = [method for method, _ in _marked(members, _COMPENSATED_MARK)]
    if len(methods) > 1:
        raise UsageError(f"{saga}: {' and '.join(m.__name__ for m in methods)} are marked with @when_compensated; mark one")
    for method in methods:
        _check_method(saga, method, 2, "(self, saga)")
    return methods[0] if methods else None


def _answers(saga: str, steps: Mapping[str, Step]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for step in steps.values():
        for event_class, outcome in step.answers.items():
            if (other := answers.get(event_class.event_type)) is not None:
                raise UsageError(
                    f"{saga}: {event_class.__name__} answers both {other.step.name} and {step.name}; give each step answers of its own, "
                    "or tell them apart in a method, with saga.done(step) and saga.failed(step)"
                )
            answers[event_class.event_type] = Answer(step, outcome)
    return answers


def _event_classes(members: Mapping[str, Any], steps: Mapping[str, Step]) -> tuple[type[Event], ...]:
    found: dict[type[Event], None] = {}
    for mark in (_STARTS_MARK, ON_MARK):
        for _, event_classes in _marked(members, mark):
            found.update(dict.fromkeys(event_classes))
    for step in steps.values():
        found.update(dict.fromkeys(step.answers))
    return tuple(found)


# -- checking ----------------------------------------------------------------------------------------------------------


def _is_name(given: object) -> bool:
    return isinstance(given, str) and 1 <= len(given) <= NAME_CHARACTERS_MAX and _CONTROL.search(given) is None


def _check_event_class(given: object, where: str) -> None:
    if not (inspect.isclass(given) and issubclass(given, Event) and given is not Event):
        raise UsageError(f"{where}: {given!r} is no event class; give subclasses of headwater.Event")


def _check_method(saga: str, method: Any, parameter_count: int, wanted: str) -> None:
    if not inspect.isfunction(method):
        raise UsageError(f"{saga}: a saga's methods are plain `async def`, not {type(method).__name__}")
    try:
        inspect.signature(method).bind(*range(parameter_count))
    except TypeError:
        fits = False
    else:
        fits = True
    if not fits or not inspect.iscoroutinefunction(method):
        raise UsageError(f"{saga}.{method.__name__} must be written: async def {method.__name__}{wanted}")


def _check_annotation(saga: str, method: Callable[..., Any], event_class: type[Event]) -> None:
    parameter = list(inspect.signature(method).parameters)[1]
    try:
        hint = get_type_hints(method, localns={event_class.__name__: event_class}).get(parameter)
    except (NameError, AttributeError, TypeError):
        return  # a name that exists only for type checkers; they check it then
    if hint is not None and not _takes(hint, event_class):
        raise UsageError(
            f"{saga}.{method.__name__} is marked for {event_class.__name__}, but its parameter {parameter!r} is annotated "
            f"{getattr(hint, '__name__', hint)}; make them agree"
        )


def _takes(hint: Any, event_class: type[Event]) -> bool:
    if get_origin(hint) in {Union, types.UnionType}:
        return any(_takes(arm, event_class) for arm in get_args(hint))
    return not inspect.isclass(hint) or issubclass(event_class, hint)


def _check_key(saga: str, key: Key | None, event_classes: tuple[type[Event], ...]) -> None:
    if not isinstance(key, str):
        if key is None or not callable(key):
            raise UsageError(
                f'{saga}: say which events belong to one saga: class {saga}(Saga, key="order_id"), an attribute of its events or a function of them'
            )
        return
    for event_class in event_classes:
        if key not in event_class.model_fields and not hasattr(event_class, key):
            fields = ", ".join(event_class.model_fields) or "none"
            raise UsageError(
                f"{saga}: {event_class.__name__} has no field {key!r}, which the saga's key names (its fields: {fields}); "
                "name another, or give a function: key=lambda event: …"
            )


def _check_options(saga_class: type[Saga], ends_within: timedelta, unmatched: Unmatched) -> None:
    name = saga_class.__name__
    if ends_within <= timedelta(0):
        raise UsageError(f"{name}: ends_within={ends_within!r} must be longer than nothing")
    if unmatched not in get_args(Unmatched):
        raise UsageError(f'{name}: unmatched={unmatched!r} must be "ignore" or "fail"')
    if required := [field for field, info in saga_class.model_fields.items() if info.is_required()]:
        raise UsageError(
            f"{name}: the field {required[0]!r} needs a default, for a saga begins before its first event: {required[0]}: … = …"
        )
