"""`headwater demo`: the order case of `examples/orders`."""

from __future__ import annotations

from headwater.cli.checkout import import_from_checkout


def run_demo(*, order_count: int, json_output: bool, chaos: bool) -> int:
    """Run it; returns the exit status, 0 only if every check holds."""
    status: int = import_from_checkout("examples", "orders.demo").run(order_count=order_count, json_output=json_output, chaos=chaos)
    return status
