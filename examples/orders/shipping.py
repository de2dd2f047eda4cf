"""The shipping service: sends what it is told to, once.

Run it: headwater run orders.shipping:service
"""

from __future__ import annotations

from headwater import Context, Decider, Event, Service
from orders.commands import ShipOrder
from orders.events import ShipmentSent

service = Service("shipping", values="json")  # Avro is the default; every service reads both


def decide(command: ShipOrder, is_sent: bool) -> list[Event]:
    """A shipment leaves once, however often it is asked for."""
    return [] if is_sent else [ShipmentSent(order_id=command.order_id, ship_country=command.ship_country, units=command.units)]


SHIPMENT = Decider(initial_state=False, decide=decide, evolve=lambda _is_sent, _event: True)


@service.on(ShipOrder)
async def ship(command: ShipOrder, context: Context) -> None:
    """Send every unit to the customer."""
    await service.decide(f"shipment-{command.order_id}", command, SHIPMENT, connection=context.connection)
