"""Looking after a running service from outside: is it well, what does it measure, and is every process of it there.

Who is authoritative: the service's own workers for how they are, PostgreSQL and Kafka for whether they answer, the parent for its processes.
Asking never changes anything, and costs the servers no more than once a second however often it is done.

- `check_health` looks at one open service: ready, or what is wrong; `/readyz` says the same in JSON.
- `PrometheusMetrics` takes the measurements of the rooms (`headwater.metrics`); what must be asked for, such as lags, is asked when somebody reads.
- `serve_http` answers /livez, /readyz and /metrics, on loopback unless told otherwise. There is no login: whoever may connect may read.
- `WorkerPool` runs a service in several processes, restarts one that died or fell silent, and drains all of them within a deadline.

States of a process in the pool: starting → running (the service is open) → draining → ended; from any of them → died (by itself, or killed for
its silence) → waiting for its delay → starting. A process whose parent is gone drains by itself.
"""

from headwater.operations.channel import Answers, end_with_parent
from headwater.operations.health import Check, Health, check_health
from headwater.operations.http import HttpAddress, operations_app, serve_http
from headwater.operations.pool import WORKERS_MAX, PoolLimits, WorkerPool
from headwater.operations.pool_reports import PoolReports
from headwater.operations.prometheus import PrometheusMetrics
from headwater.operations.reloading import python_changes
from headwater.operations.reports import ProvidesReports, ServiceReports
from headwater.operations.watchdog import watched_loop

__all__ = [
    "WORKERS_MAX",
    "Answers",
    "Check",
    "Health",
    "HttpAddress",
    "PoolLimits",
    "PoolReports",
    "PrometheusMetrics",
    "ProvidesReports",
    "ServiceReports",
    "WorkerPool",
    "check_health",
    "end_with_parent",
    "operations_app",
    "python_changes",
    "serve_http",
    "watched_loop",
]
