import socket
from pathlib import Path

from headwater.embedded.ports import LOOPBACK, free_ports


def test_ports_are_different_and_can_be_bound() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as listener:
            listener.bind((LOOPBACK, port))


def test_ports_are_never_given_to_outgoing_connections() -> None:
    """A client that keeps knocking at a dead server's port must not be given that very port and connect to itself."""
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first_ephemeral = int(limits.read_text().split()[0]) if limits.exists() else 32_768
    assert max(free_ports(50)) < first_ephemeral
