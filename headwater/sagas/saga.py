"""What users write: a class with typed state, steps, and methods for events and deadlines."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError

from headwater.errors import SagaError
from headwater.messages import faults
from headwater.sagas.definition import Key, SagaDefinition, Step, Unmatched, define
from headwater.sagas.values import ENDS_WITHIN


class Saga(BaseModel):
    """A long story made of steps that other services carry out: subclass it, give it fields with defaults, steps, and marked methods.

        class OrderFulfilment(Saga, key="order_id"):
            reserve_stock = Step(done_by=StockReserved, failed_by=StockShort, undone_by=StockReleased)
            amount: Decimal = Decimal(0)

            @starts_on(OrderPlaced)
            async def placed(self, event: OrderPlaced, saga: SagaContext) -> None:
                self.amount = event.amount
                await saga.send(self.reserve_stock, ReserveStock(order_id=event.order_id), compensation=ReleaseStock(order_id=event.order_id))

            @on(StockReserved)
            async def reserved(self, event: StockReserved, saga: SagaContext) -> None:
                saga.complete()

    One saga lives for each key. Its methods run in the transaction that moves the bus's position: state, commands and deadlines are kept
    together or not at all. They are called while the saga is running; answers that come later are noted by the engine, which undoes what may
    have run.

    Class arguments:
        key: the attribute of its events that says which saga they belong to, or a function of the event; None belongs to none.
        ends_within: when a saga that has not ended waits for a person, visibly.
        unmatched: what to do with an event whose saga has not begun: "ignore" it, or "fail", which tries again and then keeps a dead letter.
    """

    model_config = ConfigDict(
        extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings", ignored_types=(Step,)
    )

    saga_type: ClassVar[str] = ""
    __headwater_saga__: ClassVar[SagaDefinition]

    def __init_subclass__(
        cls, *, key: Key | None = None, ends_within: timedelta = ENDS_WITHIN, unmatched: Unmatched = "ignore", **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, key: Key | None = None, ends_within: timedelta = ENDS_WITHIN, unmatched: Unmatched = "ignore", **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.__headwater_saga__ = define(cls, key, ends_within, unmatched)
        cls.saga_type = cls.__headwater_saga__.name


SagaT = TypeVar("SagaT", bound=Saga)


def encode_state(saga: Saga) -> str:
    """The state as it is stored.

    Raises:
        SagaError: a field holds what its annotation does not allow.
    """
    try:
        return saga.model_dump_json(warnings="error")
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise SagaError(f"the state of {saga.saga_type} cannot be written as JSON: {error}") from error


def decode_state(saga_class: type[SagaT], key: str, state: str) -> SagaT:
    """A stored state; fields that the class no longer has are passed over.

    Raises:
        SagaError: the class cannot read it.
    """
    try:
        return saga_class.model_validate_json(state, extra="ignore")
    except ValidationError as error:
        raise SagaError(
            f"the state of {saga_class.saga_type} {key!r} does not fit the class ({faults(error)}): its fields have changed; give new fields "
            "defaults, and keep the old ones' types while sagas are open"
        ) from None
