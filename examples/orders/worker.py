"""`headwater run TARGET` in a process that does not outlive the one that started it.

Use: python -m orders.worker orders.inventory:service

Its standard input is a pipe that only the starting process holds: when that ends, however it ends, the pipe closes and the service stops.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from headwater.cli import main

DRAIN_TIMEOUT_SECONDS = 5.0


def stop_with_parent() -> None:
    """Wait for the pipe to close, ask this process to stop, and insist after a while."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(DRAIN_TIMEOUT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=stop_with_parent, name="stop-with-parent", daemon=True).start()
    sys.argv = ["headwater", "run", *sys.argv[1:]]
    main()
