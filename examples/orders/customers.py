"""The customers: how each order's will be paid, if at all. A hash of the order's id says it, so every run agrees.

They stand for the world outside; `payment.py` hears of them only through messages.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from uuid import UUID


class Behaviour(StrEnum):
    """What a customer does with a bill."""

    PAYS = "pays"
    IS_DECLINED = "is declined"
    NEVER_PAYS = "never pays"
    PAYS_LATE = "pays late"


TWENTIETHS: Final = (Behaviour.IS_DECLINED, Behaviour.IS_DECLINED, Behaviour.NEVER_PAYS, Behaviour.PAYS_LATE)
"""What the first twentieths of all customers do; the others pay. A tenth is declined."""


def behaviour_of(order_id: UUID) -> Behaviour:
    """What the customer of this order does. The ids of orders are hashes themselves."""
    twentieth = order_id.int % 20
    return TWENTIETHS[twentieth] if twentieth < len(TWENTIETHS) else Behaviour.PAYS
