"""Configuration and servers held against the promises: what is not as it should be, what that costs, and what to do about it.

Who is authoritative: the servers, asked anew each time. Facts are gathered (`postgres`, `headwater.kafka.inspect_cluster`), then judged by checks
that know no server (`own_checks`, `postgres_checks`, `log_checks`, `kafka_checks`): facts in, findings out. A check whose facts could not be read
says nothing, and `unread-facts` or `kafka-rights` says why.

Nothing is changed: questions run in read-only transactions, on a connection that opens no epoch, and no topic is asked for by name. No finding
holds a secret.

What can fail: nothing that a server does. One that does not answer is a finding. docs/doctor.md lists all findings.
"""

from headwater.doctor.examination import FINDING_NAMES, examine
from headwater.doctor.findings import Check, Finding, Severity, Verdict, has_failure, worst_first

__all__ = [
    "FINDING_NAMES",
    "Check",
    "Finding",
    "Severity",
    "Verdict",
    "examine",
    "has_failure",
    "worst_first",
]
