"""What the log's database must be like: its schema, who may do what, what stands between, and who holds it up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from headwater.doctor.facts import (
    OPEN_SECONDS_MAX,
    OPEN_SECONDS_SUSPICIOUS,
    OVERDUE_SECONDS_MAX,
    OpenTransaction,
    Overdue,
    PostgresFacts,
    identifier,
)
from headwater.doctor.findings import Check, Finding, Verdict, check

NAMED_MAX: Final = 8
"""Rights named in one finding."""

OVERDUE_COSTS: Final = {
    "message": "They are delivered when a service of this log runs again, late; those of one stream wait for its first.",
    "schedule": "It fires late, and for all the times that it missed no more than its policy says.",
    "deadline": "The saga goes on waiting: what it would do without an answer, such as giving stock back, is not done.",
}


@check("migrations", expected="the schema of this version")
def migrations(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    status = facts.migrations
    if status is None:
        return
    if status.is_current:
        yield verdict.ok(f"schema {facts.schema}, {len(status.applied)} migrations")
        return
    schema = "" if facts.schema == "headwater" else f" --schema {facts.schema}"
    yield verdict.failure(
        f"schema {facts.schema}: " + (status.explain() if status.applied else "no log was set up here"),
        cost="Services of this version refuse to start.",
        remedy="Install the Headwater that migrated this database."
        if status.changed or not status.pending
        else f"headwater migrate{schema}",
    )


@check("login-rights", expected="everything that a service does with the log")
def login_rights(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.rights is None:
        return
    if not facts.rights.missing:
        yield verdict.ok(f"{facts.login.name} may do all of it")
        return
    named = ", ".join(facts.rights.missing[:NAMED_MAX]) + (" …" if len(facts.rights.missing) > NAMED_MAX else "")
    is_schemas_only = all(right.startswith("CREATE on database") for right in facts.rights.missing)
    cost = (
        "Read models cannot be made or rebuilt: each version of one has a schema of its own."
        if is_schemas_only
        else "A service with this login fails where it needs them: at appends, at positions of handlers, at dead letters or read models."
    )
    writer = facts.rights.writer
    remedy = (
        f"GRANT {writer} TO {identifier(facts.login.name)};"
        if writer
        else f"headwater migrate --roles, then GRANT headwater_writer TO {identifier(facts.login.name)};"
    )
    judge = verdict.warning if is_schemas_only else verdict.failure
    yield judge(f"{facts.login.name} may not {named}", cost=cost, remedy=remedy + " (docs/roles.md)")


@check("login-power", expected="a login that appends through the functions alone")
def login_power(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.rights is None:
        return
    if not facts.login.is_superuser and not facts.rights.excess:
        yield verdict.ok(f"{facts.login.name} cannot change events or draw positions")
        return
    may = "is a superuser" if facts.login.is_superuser else f"may {', '.join(facts.rights.excess)}"
    writer = facts.rights.writer
    first = "" if writer else "headwater migrate --roles, then "
    yield verdict.warning(
        f"{facts.login.name} {may}",
        cost="One mistaken statement of a service, or one injected into it, can change or delete events, or break the order that every reader relies on.",
        remedy=f"{first}CREATE ROLE shop_service LOGIN PASSWORD '…' IN ROLE {writer or 'headwater_writer'}; and let services log in as that.",
    )


@check("log-owner", expected="an owner that is no superuser")
def log_owner(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.rights is None:
        return
    if facts.rights.is_owner_superuser:
        yield verdict.note(
            f"{facts.rights.owner} is a superuser",
            cost="The functions that append run with their owner's rights: a hole in one would open the whole server, not just the log.",
            remedy="headwater migrate --roles gives the log to headwater_owner, which is none.",
        )
    else:
        yield verdict.ok(facts.rights.owner)


@check("session-details", expected="a login that sees what other logins' sessions do (pg_read_all_stats)")
def session_details(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.login.sees_all_sessions:
        yield verdict.ok(f"{facts.login.name} sees them")
    else:
        yield verdict.note(
            f"{facts.login.name} sees its own alone",
            cost="Here and in `headwater log stats` transactions of other logins show without their age and program, or not at all.",
            remedy=f"GRANT pg_read_all_stats TO {identifier(facts.login.name)}; or run this as a login that has it.",
        )


@check("pooler", expected="HEADWATER_POSTGRES_POOLING as the connection is")
def pooler(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.pooling == "session" and facts.shares_sessions:
        yield verdict.failure(
            "a pooler that gives a connection for one transaction only, and HEADWATER_POSTGRES_POOLING=session",
            cost="Statements fail with `prepared statement does not exist`, and settings and LISTEN of one service land in another's session.",
            remedy="HEADWATER_POSTGRES_POOLING=transaction, or connect to PostgreSQL directly (docs/postgres.md).",
        )
    elif facts.pooling == "transaction" and not facts.has_pooler:
        yield verdict.note(
            "no pooler, and HEADWATER_POSTGRES_POOLING=transaction",
            cost="Each statement takes two round trips more, and readers poll instead of being woken.",
            remedy="Unset HEADWATER_POSTGRES_POOLING.",
        )
    else:
        yield verdict.ok(f"{'a pooler' if facts.has_pooler else 'no pooler'}, pooling by {facts.pooling}")


@check("idle-timeout", expected="idle_in_transaction_session_timeout above 0 for Headwater's sessions")
def idle_timeout(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    milliseconds = facts.number("idle_in_transaction_session_timeout")
    if milliseconds:
        yield verdict.ok(f"{milliseconds / 1000:g} s")
        return
    yield verdict.warning(
        "0: a transaction may idle for ever",
        cost="A writer whose host vanishes in the middle of an append holds the horizon until TCP gives up, up to two hours: nobody reads a later event.",
        remedy=f"ALTER ROLE {identifier(facts.login.name)} SET idle_in_transaction_session_timeout = '60s'; (a pooler keeps Headwater from setting it itself)",
    )


@check("encryption", expected="TLS where the connection leaves this machine")
def encryption(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.is_encrypted or facts.is_local:
        yield verdict.ok("TLS" if facts.is_encrypted else "within this machine")
    else:
        yield verdict.warning(
            "no TLS on a connection over the network",
            cost="Whoever can listen on the way reads every event, and may read or change what a service sends.",
            remedy="Switch on ssl at the server, and add ?sslmode=verify-full (at least require) to HEADWATER_POSTGRES.",
        )


@check("prepared-transactions", expected="none left behind")
def prepared_transactions(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.prepared is None:
        return
    for transaction in facts.prepared:
        judge = verdict.warning if _is_open_for(transaction, OPEN_SECONDS_SUSPICIOUS) else verdict.note
        yield judge(
            _described(transaction),
            cost="It keeps its locks through restarts until somebody ends it, and vacuum away from everything newer; if it appended, readers stop before it.",
            remedy=f"If no coordinator will end it: {transaction.end_with};",
        )
    if not facts.prepared:
        yield verdict.ok("none")


@check("horizon", expected="no append open for long")
def horizon(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.horizon_holders is None:
        return
    held = [transaction for transaction in facts.horizon_holders if _is_open_for(transaction, OPEN_SECONDS_SUSPICIOUS)]
    for transaction in held:
        judge = verdict.failure if _is_open_for(transaction, OPEN_SECONDS_MAX) else verdict.warning
        yield judge(
            f"{_described(transaction)} has appended and not ended",
            cost="Nobody reads what was appended after it: the relay, handlers and projections wait until it ends.",
            remedy=f"Let it commit, or end it: {transaction.end_with};",
        )
    if not held:
        yield verdict.ok(_counted(facts.horizon_holders))


@check("idle-transactions", expected=f"no transaction idle for more than {OPEN_SECONDS_MAX:.0f} s")
def idle_transactions(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.idle is None:
        return
    for transaction in facts.idle:
        yield verdict.warning(
            f"{_described(transaction)} is idle in its transaction",
            cost="Vacuum cannot clear what newer transactions replaced, so tables of positions grow; migrations and the switch of a rebuild wait for it.",
            remedy=f"Let its program commit, or end it: {transaction.end_with};",
        )
    if not facts.idle:
        yield verdict.ok("none" if facts.login.sees_all_sessions else f"none of {facts.login.name}")


@check("overdue", expected=f"messages for later, schedules and deadlines done within {OVERDUE_SECONDS_MAX:.0f} s of their moment")
def overdue(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    if facts.overdue is None:
        return
    for late in facts.overdue:
        yield verdict.warning(
            f"{late.count:,} {late.kind}{'' if late.count == 1 else 's'} due, the first for {late.seconds:,.0f} s"
            + (f"; {late.failing_count:,} tried and failed" if late.failing_count else ""),
            cost=OVERDUE_COSTS[late.kind],
            remedy=_overdue_remedy(late),
        )
    if not facts.overdue:
        yield verdict.ok("nothing is late")


def _overdue_remedy(late: Overdue) -> str:
    if late.kind == "deadline":
        return "Run a service that has this saga; `headwater sagas list` names those that wait, and their last errors."
    if late.failing_count:
        return "`headwater scheduled list --failing` tells why; mend that, or cancel them with `headwater scheduled cancel`."
    if late.kind == "message":
        return "Run a service of this log: any delivers them. None that runs can be seen here; `headwater scheduled list` shows what waits."
    return "Run its service; one that no code has any more is forgotten by `headwater scheduled cancel`."


@check("unread-facts", expected="every question answered")
def unread_facts(verdict: Verdict, facts: PostgresFacts) -> Iterator[Finding]:
    for what, reason in facts.unread.items():
        yield verdict.warning(
            f"{what}: {reason}",
            cost="What depends on it was not checked.",
            remedy=f"GRANT the right to {identifier(facts.login.name)}, or run this as a login that has it; then again.",
        )
    if not facts.unread:
        yield verdict.ok("all were")


def _is_open_for(transaction: OpenTransaction, seconds: float) -> bool:
    # One whose age is hidden is taken for old: hiding it must not hide what it costs.
    return transaction.seconds is None or transaction.seconds >= seconds


def _described(transaction: OpenTransaction) -> str:
    return f"{transaction.who}, open for {'an unknown time' if transaction.seconds is None else f'{transaction.seconds:,.0f} s'}"


def _counted(transactions: Sequence[OpenTransaction]) -> str:
    return f"{len(transactions)} in flight" if transactions else "none"


LOG_CHECKS: Final[tuple[Check[PostgresFacts], ...]] = (
    migrations,
    login_rights,
    login_power,
    log_owner,
    session_details,
    pooler,
    idle_timeout,
    encryption,
    prepared_transactions,
    horizon,
    idle_transactions,
    overdue,
    unread_facts,
)
