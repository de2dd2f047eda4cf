"""Loopback ports that nobody uses now and that no outgoing connection will be given later."""

from __future__ import annotations

import socket
from pathlib import Path

from headwater.randomness import SYSTEM_RANDOMNESS

LOOPBACK = "127.0.0.1"
ATTEMPTS_MAX = 200

_LOWEST_PORT = 15_000
_EPHEMERAL_DEFAULT = 32_768
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """That many different ports, free at this moment; another process may still be quicker to bind one.

    They lie below the range from which the system takes the ports of outgoing connections: otherwise a client that keeps
    knocking while its server is down is sooner or later given the server's own port, connects to itself, and keeps the server out.
    """
    highest = _ephemeral_start()
    held: list[socket.socket] = []
    try:
        for _ in range(ATTEMPTS_MAX):
            if len(held) == count:
                break
            listener = _try_bind(int(SYSTEM_RANDOMNESS.uniform(_LOWEST_PORT, highest)) if highest > _LOWEST_PORT else 0)
            if listener is not None:
                held.append(listener)
        else:
            held += [_bind(0) for _ in range(count - len(held))]
        return [listener.getsockname()[1] for listener in held]
    finally:
        for listener in held:
            listener.close()


def _ephemeral_start() -> int:
    try:
        return int(_RANGE_FILE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_DEFAULT


def _try_bind(port: int) -> socket.socket | None:
    try:
        return _bind(port)
    except OSError:
        return None


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener
