"""What PostgreSQL must be like for the promises to hold: durability, replication, the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from headwater.doctor.facts import PostgresFacts, RoleSetting, identifier
from headwater.doctor.findings import Check, Finding, Verdict, check

MAJOR_MIN: Final = 15
MAJOR_MAX: Final = 18
"""The versions that Headwater is tested with (docs/postgres.md)."""
LOCKS_MIN: Final = 64
CONNECTIONS_MIN: Final = 40
"""Two processes of a service, with a rebuild and somebody who looks."""
CLOCK_SECONDS_MAX: Final = 1.0

_ELSEWHERE: Final = {
    "client": "Take synchronous_commit out of HEADWATER_POSTGRES.",
    "command line": "Take synchronous_commit out of the command line that starts the server, and restart it.",
}
"""What undoes a setting that ALTER SYSTEM cannot."""


@check("postgres-version", expected=f"PostgreSQL {MAJOR_MIN} to {MAJOR_MAX}")
def version(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.major < MAJOR_MIN:
        yield verdict.failure(
            facts.version,
            cost="Migrations and functions use what this version lacks: the log cannot be set up, or fails at the first append.",
            remedy=f"Upgrade the server to PostgreSQL {MAJOR_MIN} or newer.",
        )
    elif facts.major > MAJOR_MAX:
        yield verdict.note(
            facts.version,
            cost="Headwater was not tested with it: something may behave otherwise than is promised.",
            remedy="See whether a newer Headwater names it, and run your own tests on a copy first.",
        )
    else:
        yield verdict.ok(facts.version)


@check("primary", expected="the primary")
def primary(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.is_standby:
        yield verdict.failure(
            "a standby (in recovery)",
            cost="Every append fails, and the log cannot be read: append locks, and with them the horizon, are known on the primary alone.",
            remedy="Point HEADWATER_POSTGRES at the primary, or list all hosts and add ?target_session_attrs=read-write.",
        )
    else:
        yield verdict.ok("the primary")


@check("fsync", expected="on")
def fsync(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.value("fsync") == "off":
        yield verdict.failure(
            "off",
            cost="A crash of the machine, or a power cut, may lose acknowledged events and leave the whole database unreadable.",
            remedy="ALTER SYSTEM SET fsync = 'on'; SELECT pg_reload_conf();",
        )
    else:
        yield verdict.ok("on")


@check("full-page-writes", expected="on")
def full_page_writes(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.value("full_page_writes") == "off":
        yield verdict.failure(
            "off",
            cost="A crash of the machine while a page is written leaves half of it: stored events may be damaged beyond recovery.",
            remedy="ALTER SYSTEM SET full_page_writes = 'on'; SELECT pg_reload_conf(); (off is safe only on a file system that never tears pages)",
        )
    else:
        yield verdict.ok("on")


@check(
    "synchronous-commit",
    expected="on, remote_apply or remote_write, for every role and database; local where there is no synchronous standby",
)
def synchronous_commit(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    has_synchronous = bool(facts.value("synchronous_standby_names"))
    own = facts.settings.get("synchronous_commit")
    judged = [("this login", own.value, _own_remedy(facts, own.source))] if own is not None else []
    # A setting of another login holds for that one; one of a database or of everybody counts where this login's own hides it.
    judged += [
        (str(setting), setting.value, _reset(setting))
        for setting in facts.role_settings
        if setting.role != facts.login.name and not (setting.role is None and own is not None and own.value == setting.value)
    ]
    bad = [
        verdict.failure(f"{value} for {who}", cost=cost, remedy=remedy)
        for who, value, remedy in judged
        if (cost := _cost_of_commit(value, has_synchronous=has_synchronous))
    ]
    yield from bad or [verdict.ok(own.value if own is not None else "on")]


def _cost_of_commit(value: str, *, has_synchronous: bool) -> str:
    """What it costs to acknowledge so early; empty where it costs nothing."""
    if value == "off":
        standby = (
            " Appends do not wait for the synchronous standby either: a failover may lose acknowledged events." if has_synchronous else ""
        )
        return (
            "A crash of the server may take back what was acknowledged in the last second: writes to your own tables, forgotten keys, and "
            f"claims of partitions that processes already act on. Only appends are raised to local.{standby}"
        )
    if value == "local" and has_synchronous:
        return "Commits do not wait for the synchronous standby: a failover may lose acknowledged events, and whoever read them diverges."
    return ""


def _own_remedy(facts: PostgresFacts, source: str) -> str:
    """How to undo the setting where it holds for this login, by where PostgreSQL says that it comes from."""
    setting = {
        "user": RoleSetting(facts.login.name, None, ""),
        "database": RoleSetting(None, facts.database, ""),
        "database user": RoleSetting(facts.login.name, facts.database, ""),
    }.get(source)
    if setting is not None:
        return _reset(setting)
    return _ELSEWHERE.get(source, "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();")


def _reset(setting: RoleSetting) -> str:
    if setting.role is None and setting.database is not None:
        return f"ALTER DATABASE {identifier(setting.database)} RESET synchronous_commit; then start the services again."
    role = "ALL" if setting.role is None else identifier(setting.role)
    scope = f" IN DATABASE {identifier(setting.database)}" if setting.database is not None else ""
    return f"ALTER ROLE {role}{scope} RESET synchronous_commit; then start the services again."


@check("standbys", expected="a synchronous standby")
def standbys(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.standbys is None:
        return
    names = facts.value("synchronous_standby_names")
    followers = ", ".join(standby.name for standby in facts.standbys)
    is_hidden = any(standby.sync_state is None for standby in facts.standbys)
    if not facts.standbys and not names:
        yield verdict.note(
            "none",
            cost="The log is in one place: when its disk is lost, everything since the last backup is lost.",
            remedy="Run a synchronous standby (docs/postgres.md), and keep backups in any case.",
        )
    elif not names:
        yield verdict.warning(
            f"only asynchronous ones: {followers}",
            cost="A failover loses the last acknowledged events; projections that had read them stop as diverged and have to be rebuilt.",
            remedy="ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (…)'; SELECT pg_reload_conf(); with the standbys' application_name.",
        )
    elif not is_hidden and not any(standby.sync_state in ("sync", "quorum") for standby in facts.standbys):
        yield verdict.failure(
            f"{names!r} asks for one, and none is connected",
            cost="Every commit waits for a standby that is not there: appends hang until it is back.",
            remedy="Start the standby, or change synchronous_standby_names knowing that a failover then loses acknowledged events.",
        )
    else:
        yield verdict.ok(f"{names} ({followers})")


@check("clock", expected=f"at most {CLOCK_SECONDS_MAX:.0f} s between this process and the database")
def clock(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    seconds = facts.clock_ahead_seconds
    found = (
        f"the database is {abs(seconds):.3f} s {'ahead' if seconds >= 0 else 'behind'} (measured to {facts.clock_uncertain_seconds:.3f} s)"
    )
    if abs(seconds) - facts.clock_uncertain_seconds > CLOCK_SECONDS_MAX:
        yield verdict.warning(
            found,
            cost="Leases and deadlines follow the database's clock and stay right; ids drawn here, times in log lines and lags shown here are off by so much.",
            remedy="Let NTP (chrony, systemd-timesyncd) set the clock of both machines.",
        )
    else:
        yield verdict.ok(found)


@check("max-locks", expected=f"max_locks_per_transaction of at least {LOCKS_MIN}")
def max_locks(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    locks = facts.number("max_locks_per_transaction")
    if locks < LOCKS_MIN:
        places = locks * (facts.number("max_connections") + facts.number("max_prepared_transactions"))
        yield verdict.warning(
            f"{locks}, which makes some {places:,} places",
            cost="When the table of locks is full, appends and the switch of a rebuilt projection fail with `out of shared memory`.",
            remedy=f"ALTER SYSTEM SET max_locks_per_transaction = {LOCKS_MIN}; and restart the server.",
        )
    else:
        yield verdict.ok(str(locks))


@check("max-prepared-transactions", expected="above 0 for two-phase commit of your own")
def max_prepared(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    prepared = facts.number("max_prepared_transactions")
    if prepared == 0:
        yield verdict.note(
            "0",
            cost="PREPARE TRANSACTION is refused: an append cannot take part in a two-phase commit. Nothing else needs it.",
            remedy="Only for two-phase commit: ALTER SYSTEM SET max_prepared_transactions = 64; and restart the server.",
        )
    else:
        yield verdict.ok(str(prepared))


@check("max-connections", expected=f"at least {CONNECTIONS_MIN} connections for services")
def max_connections(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    usable = facts.number("max_connections") - facts.number("superuser_reserved_connections")
    if usable < CONNECTIONS_MIN and not facts.has_pooler:
        yield verdict.warning(
            f"{usable}",
            cost="Each process of a service takes up to 16, each SQL projection and each rebuild one more: with the second or third process, "
            "`too many clients` interrupts appends and handlers.",
            remedy="ALTER SYSTEM SET max_connections = 100; and restart the server, or put a pooler between (docs/postgres.md).",
        )
    else:
        yield verdict.ok(f"{usable}" + (" behind a pooler" if facts.has_pooler else ""))


POSTGRES_CHECKS: Final[tuple[Check[PostgresFacts], ...]] = (
    version,
    primary,
    fsync,
    full_page_writes,
    synchronous_commit,
    standbys,
    clock,
    max_locks,
    max_prepared,
    max_connections,
)
