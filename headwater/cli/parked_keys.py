"""`headwater dead-letters … --parked`: keys that wait for a message that failed, and what people decide about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from headwater.cli.database import open_database
from headwater.cli.output import can_ask, print_facts, print_json, print_table, printable, shortened
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater.bus import KeptKey, ParkedEvent, ParkedFilter, ParkedStatus

ParkedOption = Annotated[
    bool, typer.Option("--parked", help="Parked keys, whose later messages wait in order, instead of dead letters; ids are theirs then.")
]
KeyOption = Annotated[str | None, typer.Option("--key", help="With --parked: only this key, which is a stream's name like order-17.")]

ERROR_CHARACTERS: Final = 80
"""Of an error in a list."""
SHOWN_MESSAGES_MAX: Final = 20
"""Of what waits with a key, for people; --json has up to `JSON_MESSAGES_MAX`."""
JSON_MESSAGES_MAX: Final = 10_000
_DONE: Final = {"retry": "to be tried now", "skip": "to be skipped", "discard": "to be discarded"}


def choose_parked(
    ids: Sequence[int] | None,
    group: str | None,
    handler_name: str | None,
    event_type: str | None,
    key: str | None,
    *,
    everything: bool | None = None,
    status: str | None = None,
) -> ParkedFilter:
    """The filter that the options mean.

    Args:
        everything: whether `--all` was given; None where nothing needs to be said to mean all.
    Raises:
        UsageError: nothing says which keys are meant, `--all` contradicts what does, or the status is none.
    """
    from headwater.bus import PARKED_STATUSES, ParkedFilter

    if status not in (None, "open", "all", *PARKED_STATUSES):
        raise UsageError(f"--status {status} means nothing for parked keys; write {' or '.join(PARKED_STATUSES)}")
    statuses: tuple[ParkedStatus, ...] = tuple(known for known in PARKED_STATUSES if status in (None, "open", "all", known))
    chosen = ParkedFilter(tuple(dict.fromkeys(ids)) if ids else None, group, handler_name, event_type, key, statuses)
    if everything is False and chosen.is_everything and status is None:
        raise UsageError("which ones? give ids, --group, --handler, --type or --key, or --all for every one")
    if everything and chosen.ids is not None:
        raise UsageError("ids say which ones are meant; leave out --all")
    return chosen


async def list_parked(chosen: ParkedFilter, after: int, limit: int, *, json_output: bool) -> None:
    """Parked keys, oldest first."""
    from headwater.bus import ParkedDesk

    async with open_database() as database:
        desk = ParkedDesk(database)
        keys, count = await desk.list(chosen, limit=limit, after=after), await desk.count(chosen)
    if json_output:
        print_json({"parked_keys": [_facts(kept) for kept in keys], "count": count})
        return
    rows = [
        (
            kept.parked_key_id,
            _state(kept),
            kept.group,
            kept.handler_name,
            kept.key,
            kept.message_count,
            kept.event_type,
            kept.attempts,
            kept.due_at if kept.status == "waiting" else None,
            shortened(_error(kept), ERROR_CHARACTERS),
        )
        for kept in keys
    ]
    columns = ("id", "status", "group", "handler", "key", "messages", "first", "attempts", "next attempt", "error")
    print_table(columns, rows, empty="no parked keys" if after == 0 else f"no parked keys after {after}")
    if keys and (after or count > len(keys)):
        print(f"{len(keys):,} of {count:,}; the next page: --after {keys[-1].parked_key_id}")


async def show_parked(parked_key_id: int, *, json_output: bool) -> None:
    """One parked key in full, and what waits behind its first message."""
    from headwater.bus import ParkedDesk

    async with open_database() as database:
        desk = ParkedDesk(database)
        kept = await desk.get(parked_key_id)
        events = await desk.messages(parked_key_id, limit=JSON_MESSAGES_MAX if json_output else SHOWN_MESSAGES_MAX)
    if json_output:
        print_json({**_facts(kept), "raw": dict(kept.raw), "messages": [_event_facts(event) for event in events]})
        return
    print_facts(
        {
            "parked key": kept.parked_key_id,
            "status": _state(kept),
            "group": kept.group,
            "handler": kept.handler_name,
            "key": kept.key,
            "partition": str(kept.partition),
            "waiting": f"{kept.message_count:,} messages since {kept.parked_at:%Y-%m-%d %H:%M:%S}",
            "next attempt": kept.due_at if kept.status == "waiting" else "when somebody decides: retry, skip or discard",
            "first message": f"{kept.event_type} {kept.event_id}, version {kept.version}",
            "position": f"{kept.position} of log {kept.log_id}",
            "attempts": kept.attempts,
            "first failed": kept.error.first_failed_at if kept.error else None,
            "last failed": kept.error.last_failed_at if kept.error else None,
            "error": _error(kept),
        }
    )
    rows = [(event.offset, event.event_type, event.version, event.event_id, event.parked_at) for event in events]
    print_table(("offset", "type", "version", "event", "parked"), rows, empty="nothing waits")
    if kept.message_count > len(events):
        print(f"{len(events):,} of {kept.message_count:,}; all of them: --json")
    if kept.error is not None:
        print(printable(kept.error.traceback.rstrip()))
    print(f"the event itself: headwater stream show {printable(kept.key)}, in the service that appended it")


async def decide_parked(verb: str, chosen: ParkedFilter, *, limit: int, yes: bool, json_output: bool) -> int:
    """Find the keys, say how many, ask where it matters, leave the requests; exit status 1 when an id that was named is not parked."""
    from headwater.bus import ParkedDesk

    async with open_database() as database:
        desk = ParkedDesk(database)
        found, total = await desk.list(chosen, limit=limit), await desk.count(chosen)
        if found and not (chosen.ids is not None and verb != "discard"):
            ask(verb, "parked keys", len(found), total, without_asking=verb != "discard", yes=yes, json_output=json_output)
        act = {"retry": desk.retry, "skip": desk.skip, "discard": desk.discard}[verb]
        requested = await act([kept.parked_key_id for kept in found]) if found else frozenset[int]()
    named = set(chosen.ids or ())
    refused = dict.fromkeys(
        sorted(named - requested) if len(found) == total else [], "it is not parked (any more), or the filters leave it out"
    )
    if json_output:
        reasons = [{"id": parked_key_id, "reason": reason} for parked_key_id, reason in refused.items()]
        print_json({"request": verb, "requested": sorted(requested), "count": len(requested), "found": total, "refused": reasons})
    else:
        for parked_key_id, reason in refused.items():
            print(f"{parked_key_id}: {reason}")
        if requested:
            messages = f"{len(requested):,} first message{'' if len(requested) == 1 else 's'} {_DONE[verb]}"
            print(f"{messages}; the running service does it within seconds: headwater dead-letters list --parked")
        else:
            print(f"nothing to {verb}")
    return 1 if refused else 0


def ask(verb: str, nouns: str, count: int, total: int, *, without_asking: bool, yes: bool, json_output: bool) -> None:
    """Ask whether so many may be changed, or insist on `--yes` where nobody can be asked and it matters."""
    how_many = (
        f"the oldest {count:,} of {total:,} {nouns}" if count < total else f"{count:,} {nouns if count != 1 else nouns.removesuffix('s')}"
    )
    somebody_is_there = can_ask(json_output=json_output)
    if yes or (without_asking and not somebody_is_there):
        return
    if not somebody_is_there:
        raise UsageError(f"this would {verb} {how_many}, and nobody can be asked; repeat it with --yes")
    typer.confirm(f"{verb} {how_many}?", abort=True)


def _state(kept: KeptKey) -> str:
    return kept.status if kept.request is None else f"{kept.status}, {kept.request} asked"


def _error(kept: KeptKey) -> str:
    return f"{kept.error.error_type}: {kept.error.error_message}" if kept.error is not None else "has yet to be tried"


def _facts(kept: KeptKey) -> dict[str, Any]:
    error = kept.error
    return {
        "id": kept.parked_key_id,
        "status": kept.status,
        "request": kept.request,
        "requested_at": kept.requested_at,
        "group": kept.group,
        "handler": kept.handler_name,
        "topic": kept.partition.topic,
        "partition": kept.partition.number,
        "key": kept.key,
        "message_count": kept.message_count,
        "parked_at": kept.parked_at,
        "due_at": kept.due_at if kept.status == "waiting" else None,
        "attempts": kept.attempts,
        "error_type": error.error_type if error else None,
        "error_message": error.error_message if error else None,
        "traceback": error.traceback if error else None,
        "first_failed_at": error.first_failed_at if error else None,
        "last_failed_at": error.last_failed_at if error else None,
        "type": kept.event_type,
        "event_id": kept.event_id,
        "version": kept.version,
        "offset": kept.offset,
        "log_id": kept.log_id,
        "position": str(kept.position),
    }


def _event_facts(event: ParkedEvent) -> dict[str, Any]:
    return {
        "offset": event.offset,
        "type": event.event_type,
        "event_id": event.event_id,
        "version": event.version,
        "position": str(event.position),
        "parked_at": event.parked_at,
    }
