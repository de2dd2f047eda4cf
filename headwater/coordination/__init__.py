"""Who may do what: fenced leases, and sharing a fixed set of things among any number of processes.

Who is authoritative: the store of the leases, on its own clock; in PostgreSQL that is one table. A process's idea of what it holds is only ever
older than the store's, so it counts from before it asked: it believes in a lease for less time than the store does.

States of a lease: never taken → held → run out or given back → held again, under a later term. A lease cannot keep a process from acting that
was frozen and does not know yet: what it writes must carry the term (`Lease.fencing_token`) to where it is checked. `LeaseShare` hands out
things one lease each; see `sharing`.

What can fail, and what then happens:
- the process dies or freezes: its leases run out, others take them, its term is over;
- the store cannot be reached: nothing is renewed, so every holder gives up when its time is over, and nobody gets anything until it is back;
- the store's clock jumps forward: a lease may be taken while its holder still believes in it; the term keeps them apart;
- the store loses its last commits (an asynchronous failover): a term may be given out twice; whoever needs more than that fences where it
  writes, too, as the relay does in Kafka.
"""

from headwater.coordination.holding import Holding, SharedWork
from headwater.coordination.ports import Leases
from headwater.coordination.postgres import PostgresLeases
from headwater.coordination.sharing import LEASE_SECONDS, LeaseShare, item_lease_name, member_name
from headwater.coordination.values import LEASE_SECONDS_MAX, NAME_CHARACTERS_MAX, Lease, LeaseFacts, check_lease, check_seconds

__all__ = [
    "LEASE_SECONDS",
    "LEASE_SECONDS_MAX",
    "NAME_CHARACTERS_MAX",
    "Holding",
    "Lease",
    "LeaseFacts",
    "LeaseShare",
    "Leases",
    "PostgresLeases",
    "SharedWork",
    "check_lease",
    "check_seconds",
    "item_lease_name",
    "member_name",
]
