"""`headwater run`: a service until it is told to stop."""

from __future__ import annotations

from headwater.cli.running import run_async, stop_event
from headwater.cli.target import load_service
from headwater.telemetry import logger

_log = logger("cli")


def run_service(target: str) -> int:
    """Run the service that the target names; returns the exit status."""
    service = load_service(target)

    async def main() -> int:
        stop = stop_event()
        async with service:
            _log.info("service_running", service=service.name, **service.addresses())
            await stop.wait()
            _log.info("service_stopping", service=service.name)
        return 0

    return run_async(main())
