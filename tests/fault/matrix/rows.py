"""The rows of the matrix: every meaningful pair of a fault and a target, and the cases that are harder than any pair. docs/faults.md names the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fault.matrix import member_faults as members
from tests.fault.matrix import server_faults as servers
from tests.fault.matrix.row import Row


@dataclass(frozen=True, slots=True)
class Pair:
    """What is done, on how many brokers, and how often at full count."""

    fault: Callable[[Row], Awaitable[Any]]
    brokers: int
    faults_at_full_count: int


FAULTS = 1
"""How often in `make test`."""
PAIRS = [
    pytest.param(Pair(members.sigkill_relay, 1, 20), id="SIGKILL-relay"),
    pytest.param(Pair(members.sigstop_relay, 1, 8), id="SIGSTOP-relay"),
    pytest.param(Pair(members.cut_relay, 1, 12), id="cut-relay"),
    pytest.param(Pair(members.restart_relay, 1, 10), id="restart-relay"),
    pytest.param(Pair(members.sigkill_consumer, 1, 10), id="SIGKILL-consumer"),
    pytest.param(Pair(members.sigstop_consumer, 1, 8), id="SIGSTOP-consumer"),
    pytest.param(Pair(members.cut_consumer, 1, 12), id="cut-consumer"),
    pytest.param(Pair(members.restart_consumer, 1, 10), id="restart-consumer"),
    pytest.param(Pair(servers.sigkill_postgres, 1, 8), id="SIGKILL-postgres"),
    pytest.param(Pair(servers.sigstop_postgres, 1, 8), id="SIGSTOP-postgres"),
    pytest.param(Pair(servers.cut_postgres, 1, 12), id="cut-postgres"),
    pytest.param(Pair(servers.restart_postgres, 1, 8), id="restart-postgres"),
    pytest.param(Pair(servers.sigkill_broker, 1, 8), id="SIGKILL-broker"),
    pytest.param(Pair(servers.sigstop_broker, 1, 8), id="SIGSTOP-broker"),
    pytest.param(Pair(servers.cut_broker, 1, 12), id="cut-broker"),
    pytest.param(Pair(servers.restart_broker, 1, 8), id="restart-broker"),
    pytest.param(Pair(members.relay_thawed_late, 1, 8), id="relay-thawed-late"),
    pytest.param(Pair(members.batch_refused, 1, 8), id="batch-refused"),
    pytest.param(Pair(members.request_delivered_late, 1, 8), id="request-delivered-late"),
    pytest.param(Pair(servers.sigkill_broker, 3, 8), id="SIGKILL-leader-of-three"),
    pytest.param(Pair(servers.sigstop_broker, 3, 8), id="SIGSTOP-leader-of-three"),
    pytest.param(Pair(servers.cut_broker, 3, 10), id="cut-leader-of-three"),
    pytest.param(Pair(servers.restart_broker, 3, 8), id="restart-leader-of-three"),
    pytest.param(Pair(servers.leader_killed_with_stalled_follower, 3, 8), id="leader-killed-with-stalled-follower"),
]
