"""Which fields of a model are personal: the mark, and what it says about each field, checked when the class is defined.

    class CustomerRegistered(Event):
        customer_id: UUID
        name: Annotated[str, Personal(subject="customer_id")]
        born_on: Annotated[date, Personal(subject="customer_id", redacted=date(1900, 1, 1))]

Knows no key and no cipher; `headwater.privacy` seals and opens what is marked here.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Final, cast

from pydantic import BaseModel, PydanticUserError, RootModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from headwater.errors import UsageError

FORGOTTEN: Final = "[forgotten]"
"""What readers get instead of personal text whose subject was forgotten, unless the mark says otherwise."""


class _Unsaid(Enum):
    REDACTION = "the mark names no redaction"


@dataclass(frozen=True, slots=True)
class Personal:
    """Marks a field of an event, or of a state, as personal data: `Annotated[str, Personal(subject="customer_id")]`.

    Args:
        subject: the field of the same class that says whose data it is; its text names the subject, in one namespace for all classes.
        redacted: what readers get once the subject was forgotten, a value of the field's type; text has "[forgotten]".
    """

    subject: str
    redacted: Any = _Unsaid.REDACTION


@dataclass(frozen=True, slots=True)
class PersonalField:
    """One marked field, by the names that stand in the JSON."""

    name: str
    subject_name: str
    redacted: str
    """JSON text."""


@dataclass(frozen=True, slots=True)
class PersonalFields:
    """The marked fields of one class, by their names in the JSON."""

    owner: str
    """The class's name."""
    by_name: Mapping[str, PersonalField]


_MARKS: Final = "__headwater_personal__"


def personal_fields_of(model_class: type[BaseModel]) -> PersonalFields | None:
    """What is marked in this class, or None where nothing is; looked up once for each class.

    Raises:
        UsageError: a mark cannot be kept; the message names the field and says what to write.
    """
    if _MARKS not in vars(model_class):
        if not model_class.__pydantic_complete__:
            # Names that were not known where the class stands; pydantic finds them now, or says which it misses.
            model_class.model_rebuild()
        setattr(model_class, _MARKS, _collect(model_class))
    return cast("PersonalFields | None", vars(model_class)[_MARKS])


def _collect(model_class: type[BaseModel]) -> PersonalFields | None:
    marked: dict[str, tuple[FieldInfo, Personal]] = {}
    for name, field in model_class.model_fields.items():
        where = f"{model_class.__name__}.{name}"
        found = [mark for mark in field.metadata if isinstance(mark, Personal) or mark is Personal]
        _refuse_hidden(where, field.annotation)
        if not found:
            continue
        if len(found) > 1 or not isinstance(found[0], Personal):
            raise UsageError(f'{where}: write the mark once, with its subject: Annotated[…, Personal(subject="customer_id")]')
        marked[name] = (field, found[0])
    if not marked:
        return None
    _refuse_side_doors(model_class)
    fields = [_checked(model_class, name, field, mark, marked) for name, (field, mark) in marked.items()]
    return PersonalFields(model_class.__name__, {field.name: field for field in fields})


def _checked(model_class: type[BaseModel], name: str, field: FieldInfo, mark: Personal, marked: Mapping[str, object]) -> PersonalField:
    where = f"{model_class.__name__}.{name}"
    subject = model_class.model_fields.get(mark.subject)
    if subject is None:
        raise UsageError(
            f"{where} is personal data of {mark.subject!r}, but {model_class.__name__} has no such field "
            f"(its fields: {', '.join(model_class.model_fields)}); name the field that says whose data it is"
        )
    if mark.subject in marked:
        raise UsageError(
            f"{where} names {mark.subject!r} as its subject, which is personal itself: the subject stays readable, so that its key can be "
            "found; name a field with a plain id"
        )
    if subject.exclude or not _names_something(subject):
        raise UsageError(f"{where} names {mark.subject!r} as its subject, which is no id: it must be stored as text or a whole number")
    stored_name = _stored_name(model_class, name, field)
    return PersonalField(
        stored_name, _stored_name(model_class, mark.subject, subject), _redaction(model_class, stored_name, where, field, mark)
    )


def _stored_name(model_class: type[BaseModel], name: str, field: FieldInfo) -> str:
    """By which name the field stands in the JSON."""
    by_alias = model_class.model_config.get("serialize_by_alias")
    return (field.serialization_alias or field.alias or name) if by_alias else name


def _names_something(subject: FieldInfo) -> bool:
    """Whether the field is stored as text or a whole number, as far as its annotation tells."""
    try:
        schema = _adapter(subject, None).json_schema(mode="serialization")
    except PydanticUserError:
        return True
    return schema.get("type") not in ("array", "object", "boolean", "number", "null")


# -- the redaction ----------------------------------------------------------------------------------------------------


def _redaction(model_class: type[BaseModel], stored_name: str, where: str, field: FieldInfo, mark: Personal) -> str:
    is_said = mark.redacted is not _Unsaid.REDACTION
    encoded = ""
    value = mark.redacted if is_said else FORGOTTEN
    try:
        adapter = _adapter(field, model_class)
        # Warnings would only repeat what the validation says.
        encoded = adapter.dump_json(adapter.validate_python(value), warnings=False).decode()
        faults = _faults_when_read(model_class, stored_name, encoded)
    except (ValidationError, PydanticSerializationError) as error:
        faults = [str(fault["msg"]) for fault in error.errors()] if isinstance(error, ValidationError) else [str(error)]
    if not faults:
        return encoded
    if is_said:
        raise UsageError(f"{where}: redacted={value!r} is no value of the field ({faults[0]}); give one that it takes")
    raise UsageError(
        f"{where} does not take {FORGOTTEN!r}, which readers would get once its subject is forgotten ({faults[0]}); say what they get: "
        f'Personal(subject="{mark.subject}", redacted=…)'
    )


def _adapter(field: FieldInfo, model_class: type[BaseModel] | None) -> TypeAdapter[Any]:
    annotated: Any = Annotated
    hint: Any = annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    if model_class is not None:
        try:
            return TypeAdapter(hint, config=model_class.model_config)
        except PydanticUserError:
            # A model of its own has a configuration of its own.
            pass
    return TypeAdapter(hint)


def _faults_when_read(model_class: type[BaseModel], stored_name: str, encoded: str) -> list[str]:
    """What the class's own validators say of the redaction; what they say of the fields left out does not matter."""
    try:
        model_class.__pydantic_validator__.validate_python({stored_name: TypeAdapter(Any).validate_json(encoded)}, extra="ignore")
    except ValidationError as error:
        return [str(fault["msg"]) for fault in error.errors(include_url=False) if fault["loc"][:1] == (stored_name,)]
    except Exception:  # noqa: BLE001 - a validator that misses the other fields; it will have them when it matters
        return []
    return []


# -- where a mark, or what it hides, could slip through ---------------------------------------------------------------


def _refuse_side_doors(model_class: type[BaseModel]) -> None:
    """Refuse what writes a model's JSON beside its fields."""
    decorators = model_class.__pydantic_decorators__
    if decorators.model_serializers:
        raise UsageError(
            f"{model_class.__name__} has personal fields and a @model_serializer, which could write them elsewhere; remove one of them"
        )
    if decorators.computed_fields:
        raise UsageError(
            f"{model_class.__name__} has personal fields and the computed field {next(iter(decorators.computed_fields))!r}, which would be stored "
            "unencrypted beside them; make it a plain property"
        )
    if issubclass(model_class, RootModel):
        raise UsageError(f"{model_class.__name__} is a RootModel: mark a field of an ordinary model instead")


def hidden_mark(annotation: Any) -> str | None:
    """A mark somewhere inside this type, where it marks nothing; None when there is none."""
    return next(_hidden_marks(annotation, set()), None)


def _refuse_hidden(where: str, annotation: Any) -> None:
    """Refuse marks inside a field's type: they would be read over, and the data stored as it is."""
    if hidden := hidden_mark(annotation):
        raise UsageError(
            f"{where}: the mark stands inside its type ({hidden}), where it marks nothing; mark the whole field: "
            f'{where.rpartition(".")[2]}: Annotated[…, Personal(subject="customer_id")]'
        )


def _hidden_marks(annotation: Any, seen: set[int]) -> Iterator[str]:
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    if any(isinstance(part, Personal) or part is Personal for part in getattr(annotation, "__metadata__", ())):
        yield str(annotation)
    # `type Name = …` keeps what it stands for here.
    parts = [*typing.get_args(annotation), getattr(annotation, "__value__", None)]
    for part in parts:
        if part is not None:
            yield from _hidden_marks(part, seen)
    if inspect.isclass(annotation):
        yield from _hidden_in_class(annotation, seen)


def _hidden_in_class(found: type[Any], seen: set[int]) -> Iterator[str]:
    if issubclass(found, BaseModel):
        for name, field in found.model_fields.items():
            if any(isinstance(mark, Personal) for mark in field.metadata):
                yield f"{found.__name__}.{name}"
            yield from _hidden_marks(field.annotation, seen)
    elif dataclasses.is_dataclass(found) or typing.is_typeddict(found):
        try:
            hints = typing.get_type_hints(found, include_extras=True)
        except NameError:
            return
        for hint in hints.values():
            yield from _hidden_marks(hint, seen)
