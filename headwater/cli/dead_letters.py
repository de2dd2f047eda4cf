"""`headwater dead-letters`: look at what handlers gave up on, and decide."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from headwater.cli.database import open_database
from headwater.cli.output import (
    LIMIT_MAX,
    LIST_LIMIT_DEFAULT,
    JsonOption,
    LimitOption,
    indented_json,
    print_facts,
    print_json,
    print_table,
    printable,
    shortened,
    stored_json,
)
from headwater.cli.parked_keys import KeyOption, ParkedOption, ask, choose_parked, decide_parked, list_parked, show_parked
from headwater.cli.running import run_async
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater.bus import DeadLetter, DeadLetterDesk, KeptLetter, LetterFilter, LetterStatus

DECIDE_LIMIT_DEFAULT: Final = 10_000
"""Letters that one decision covers unless told otherwise."""
ERROR_CHARACTERS: Final = 80
"""Of an error in a list."""
RAW_CHARACTERS: Final = 120
"""Of a value that could not be read."""

dead_letter_commands = typer.Typer(
    no_args_is_help=True,
    help="Messages that a handler gave up on: look at them, `retry`, `skip` or `discard` them; with --parked, keys that still wait for theirs. "
    "Example: `headwater dead-letters list --group shop`",
)

IdsArgument = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Which ones, by their ids; or give filters.", min=1)]
GroupOption = Annotated[str | None, typer.Option("--group", "-g", help="Only those of this group, which is the service's name.")]
HandlerOption = Annotated[str | None, typer.Option("--handler", help="Only those of this handler, by its qualified name.")]
TypeOption = Annotated[str | None, typer.Option("--type", "-t", help="Only events of this type, like OrderPlaced.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every one; instead of ids or filters.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DecideLimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=LIMIT_MAX, help="At most so many, the oldest first.")]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with the chosen letters."""

    verb: str
    done: str
    """The past of the verb, which names the ids in JSON."""
    without_asking: bool
    """Whether it may be done to many letters where nobody can be asked."""
    act: Callable[[DeadLetterDesk, Sequence[int]], Awaitable[frozenset[int]]]
    why_not: Callable[[KeptLetter], str]
    hint: str


@dead_letter_commands.command("list")
def list_command(
    group: GroupOption = None,
    handler: HandlerOption = None,
    event_type: TypeOption = None,
    status: Annotated[
        str,
        typer.Option(
            "--status",
            help="`open` (waiting or retrying), `waiting`, `retrying`, `handled`, `skipped`, or `all`; with --parked `waiting` or `stopped`.",
        ),
    ] = "open",
    after: Annotated[int, typer.Option("--after", min=0, help="Only ids above this one: the next page.")] = 0,
    limit: LimitOption = LIST_LIMIT_DEFAULT,
    parked: ParkedOption = False,
    key: KeyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Dead letters, oldest first; with --parked the keys that wait for a message that failed.

    Example: `headwater dead-letters list --handler reserve --type OrderPlaced`
    """
    if parked:
        keys = choose_parked(None, group, handler, event_type, key, status=status)
        run_async(list_parked(keys, after, limit, json_output=json_output))
    else:
        _refuse_key(key)
        chosen = choose(None, group, handler, event_type, statuses=parse_status(status))
        run_async(_list(chosen, after=after, limit=limit, json_output=json_output))


@dead_letter_commands.command("show")
def show_command(
    dead_letter_id: Annotated[int, typer.Argument(metavar="ID", min=1)], parked: ParkedOption = False, json_output: JsonOption = False
) -> None:
    """One dead letter in full: its event, its error with the traceback, and what was decided; with --parked one parked key, and what waits behind it.

    Example: `headwater dead-letters show 17`
    """
    if parked:
        run_async(show_parked(dead_letter_id, json_output=json_output))
    else:
        run_async(_show(dead_letter_id, json_output=json_output))


@dead_letter_commands.command("retry")
def retry_command(
    ids: IdsArgument = None,
    group: GroupOption = None,
    handler: HandlerOption = None,
    event_type: TypeOption = None,
    everything: AllOption = False,
    limit: DecideLimitOption = DECIDE_LIMIT_DEFAULT,
    yes: YesOption = False,
    parked: ParkedOption = False,
    key: KeyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Hand messages to the same handler again, in a running service of the group: once, with all its effects or none.

    One that fails again waits with its new error. `list --status retrying` shows what is still to be tried. Examples:
    `headwater dead-letters retry 17 18` · `headwater dead-letters retry --handler reserve --limit 10` · with --parked, the first messages of
    parked keys are tried now: `headwater dead-letters retry --parked --key order-17`
    """
    if parked:
        keys = choose_parked(ids, group, handler, event_type, key, everything=everything)
        raise typer.Exit(run_async(decide_parked("retry", keys, limit=limit, yes=yes, json_output=json_output)))
    _refuse_key(key)
    chosen = choose(ids, group, handler, event_type, everything=everything, statuses=("waiting", "skipped") if ids else ("waiting",))
    decision = Decision(
        verb="retry",
        done="retried",
        without_asking=True,
        act=lambda desk, wanted: desk.retry(wanted),
        why_not=_why_not_retried,
        hint="a running service of the group tries them within seconds; what is left: headwater dead-letters list",
    )
    raise typer.Exit(run_async(_decide(decision, chosen, limit=limit, yes=yes, json_output=json_output)))


@dead_letter_commands.command("skip")
def skip_command(
    ids: IdsArgument = None,
    group: GroupOption = None,
    handler: HandlerOption = None,
    event_type: TypeOption = None,
    everything: AllOption = False,
    limit: DecideLimitOption = DECIDE_LIMIT_DEFAULT,
    yes: YesOption = False,
    parked: ParkedOption = False,
    key: KeyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Settle messages without any effect; they stay listed as skipped, and `retry ID` takes it back.

    With --parked, the first message of each key becomes such a dead letter, and those behind it go on in order.
    Example: `headwater dead-letters skip --type OrderPlaced --group shop`
    """
    if parked:
        keys = choose_parked(ids, group, handler, event_type, key, everything=everything)
        raise typer.Exit(run_async(decide_parked("skip", keys, limit=limit, yes=yes, json_output=json_output)))
    _refuse_key(key)
    decision = Decision(
        verb="skip",
        done="skipped",
        without_asking=True,
        act=lambda desk, wanted: desk.skip(wanted),
        why_not=lambda letter: f"it was {letter.status} already",
        hint="they stay listed: headwater dead-letters list --status skipped",
    )
    chosen = choose(ids, group, handler, event_type, everything=everything)
    raise typer.Exit(run_async(_decide(decision, chosen, limit=limit, yes=yes, json_output=json_output)))


@dead_letter_commands.command("discard")
def discard_command(
    ids: IdsArgument = None,
    group: GroupOption = None,
    handler: HandlerOption = None,
    event_type: TypeOption = None,
    status: Annotated[
        str | None, typer.Option("--status", help="`open`, `waiting`, `retrying`, `handled`, `skipped` or `all`; by default open ones.")
    ] = None,
    everything: AllOption = False,
    limit: DecideLimitOption = DECIDE_LIMIT_DEFAULT,
    yes: YesOption = False,
    parked: ParkedOption = False,
    key: KeyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Remove messages for good, with their errors. Asks first; where nobody can be asked, and with --json, --yes must be given.

    With --parked, the first message of each key is removed, and those behind it go on. The events themselves stay in
    the log. Example: `headwater dead-letters discard --status handled --yes`
    """
    if parked:
        keys = choose_parked(ids, group, handler, event_type, key, everything=everything, status=status)
        raise typer.Exit(run_async(decide_parked("discard", keys, limit=limit, yes=yes, json_output=json_output)))
    _refuse_key(key)
    statuses = parse_status(status or ("all" if ids else "open"))
    decision = Decision(
        verb="discard",
        done="discarded",
        without_asking=False,
        act=lambda desk, wanted: desk.discard(wanted),
        why_not=lambda letter: f"it is {letter.status}",
        hint="the events themselves stay in the log",
    )
    chosen = choose(ids, group, handler, event_type, everything=everything or status is not None, statuses=statuses)
    raise typer.Exit(run_async(_decide(decision, chosen, limit=limit, yes=yes, json_output=json_output)))


def _refuse_key(key: str | None) -> None:
    if key is not None:
        raise UsageError("--key is for parked keys; add --parked")


# -- which ones -------------------------------------------------------------------------------------------------------


def parse_status(word: str) -> tuple[LetterStatus, ...]:
    """The statuses that a word of `--status` means.

    Raises:
        UsageError: it means none.
    """
    from headwater.bus import ALL_STATUSES, OPEN_STATUSES

    if word in ("all", "open"):
        return ALL_STATUSES if word == "all" else OPEN_STATUSES
    if (index := ALL_STATUSES.index(word) if word in ALL_STATUSES else None) is None:
        raise UsageError(f"--status {word} means nothing; write open, all, {', '.join(ALL_STATUSES)}")
    return (ALL_STATUSES[index],)


def choose(
    ids: Sequence[int] | None,
    group: str | None,
    handler_name: str | None,
    event_type: str | None,
    *,
    everything: bool | None = None,
    statuses: Sequence[LetterStatus] | None = None,
) -> LetterFilter:
    """The filter that the options mean.

    Args:
        everything: whether `--all` was given; None where nothing needs to be said to mean all.
    Raises:
        UsageError: nothing says which letters are meant, or `--all` contradicts what does.
    """
    from headwater.bus import OPEN_STATUSES, LetterFilter

    chosen = LetterFilter(tuple(dict.fromkeys(ids)) if ids else None, group, handler_name, event_type, tuple(statuses or OPEN_STATUSES))
    if everything is False and chosen.is_everything:
        raise UsageError("which ones? give ids, --group, --handler or --type, or --all for every one")
    if everything and chosen.ids is not None:
        raise UsageError("ids say which ones are meant; leave out --all and --status")
    return chosen


def _why_not_retried(kept: KeptLetter) -> str:
    if not kept.can_be_retried:
        return "it holds no event that could be handed to a handler; skip or discard it"
    if kept.status == "handled":
        return "a retry handled it already"
    return "it is to be tried already"


# -- looking ----------------------------------------------------------------------------------------------------------


async def _list(chosen: LetterFilter, *, after: int, limit: int, json_output: bool) -> None:
    from headwater.bus import DeadLetterDesk

    async with open_database() as database:
        desk = DeadLetterDesk(database)
        letters, count = await desk.list(chosen, limit=limit, after=after), await desk.count(chosen)
    if json_output:
        print_json({"dead_letters": [_facts(letter) for letter in letters], "count": count})
        return
    rows = [
        (
            kept.dead_letter_id,
            kept.status,
            kept.letter.group,
            kept.letter.handler_name,
            kept.letter.event_type,
            kept.letter.stream_name,
            kept.letter.attempts,
            kept.letter.last_failed_at,
            shortened(f"{kept.letter.error_type}: {kept.letter.error_message}", ERROR_CHARACTERS),
        )
        for kept in letters
    ]
    columns = ("id", "status", "group", "handler", "type", "stream", "attempts", "last failed", "error")
    print_table(columns, rows, empty="no dead letters" if after == 0 else f"no dead letters after {after}")
    if letters and (after or count > len(letters)):
        print(f"{len(letters):,} of {count:,}; the next page: --after {letters[-1].dead_letter_id}")


async def _show(dead_letter_id: int, *, json_output: bool) -> None:
    from headwater.bus import DeadLetterDesk

    async with open_database() as database:
        kept = await DeadLetterDesk(database).get(dead_letter_id)
    if json_output:
        print_json(_facts(kept))
        return
    letter = kept.letter
    print_facts(
        {
            "dead letter": kept.dead_letter_id,
            "status": kept.status,
            "group": letter.group,
            "handler": letter.handler_name or "none: the record could not be read",
            "event": f"{letter.event_type} {letter.event_id}" if letter.event_id else None,
            "stream": f"{letter.stream_name} version {letter.version}" if letter.stream_name else None,
            "position": f"{letter.position} of log {letter.log_id}" if letter.position else None,
            "record": f"{letter.partition} offset {letter.offset}",
            "attempts": letter.attempts,
            "first failed": letter.first_failed_at,
            "last failed": letter.last_failed_at,
            "retry asked": kept.retry_requested_at,
            "settled": kept.settled_at,
            "error": f"{letter.error_type}: {letter.error_message}",
            "raw value": _shown_raw(letter),
        }
    )
    print(indented_json(letter.data))
    print(printable(letter.traceback.rstrip()))


def _shown_raw(letter: DeadLetter) -> str | None:
    """The value of a record that could not be read, in base64; None where the event's JSON is there."""
    if letter.data is not None or letter.raw is None:
        return None
    value: str | None = letter.raw["value"]
    return "none" if value is None else f"{shortened(value, RAW_CHARACTERS)} (base64; the whole record: --json)"


def _facts(kept: KeptLetter) -> dict[str, Any]:
    letter = kept.letter
    return {
        "id": kept.dead_letter_id,
        "status": kept.status,
        "group": letter.group,
        "handler": letter.handler_name,
        "type": letter.event_type,
        "event_id": letter.event_id,
        "stream_name": letter.stream_name,
        "version": letter.version,
        "log_id": letter.log_id,
        "position": str(letter.position) if letter.position else None,
        "topic": letter.partition.topic,
        "partition": letter.partition.number,
        "offset": letter.offset,
        "attempts": letter.attempts,
        "first_failed_at": letter.first_failed_at,
        "last_failed_at": letter.last_failed_at,
        "retry_requested_at": kept.retry_requested_at,
        "settled_at": kept.settled_at,
        "error_type": letter.error_type,
        "error_message": letter.error_message,
        "traceback": letter.traceback,
        "recorded_at": letter.recorded_at,
        "data": stored_json(letter.data),
        "metadata": dict(letter.metadata) if letter.metadata is not None else None,
        "raw": dict(letter.raw) if letter.raw is not None else None,
    }


# -- deciding ---------------------------------------------------------------------------------------------------------


async def _decide(decision: Decision, chosen: LetterFilter, *, limit: int, yes: bool, json_output: bool) -> int:
    """Find the letters, say how many, ask where it matters, act; exit status 1 when an id that was named was not changed."""
    from headwater.bus import ALL_STATUSES, DeadLetterDesk, LetterFilter

    async with open_database() as database:
        desk = DeadLetterDesk(database)
        # What was named is looked at whatever its status, so that a refusal can say why; what a filter finds is acted on as counted.
        named = chosen.ids is not None
        looked_at = LetterFilter(
            chosen.ids, chosen.group, chosen.handler_name, chosen.event_type, ALL_STATUSES if named else chosen.statuses
        )
        found, total = await desk.list(looked_at, limit=limit), await desk.count(looked_at)
        if found and not (named and decision.without_asking):
            _ask(decision, len(found), total, yes=yes, json_output=json_output)
        wanted = [kept.dead_letter_id for kept in found]
        changed = await decision.act(desk, wanted) if wanted else frozenset[int]()
    refused = {kept.dead_letter_id: decision.why_not(kept) for kept in found if kept.dead_letter_id not in changed}
    if len(found) == total:
        missing = set(chosen.ids or ()) - set(wanted)
        refused |= dict.fromkeys(sorted(missing), "there is no such dead letter that the filters let through")
    _tell(decision, sorted(changed), refused, total, json_output=json_output)
    return 1 if named and refused else 0


def _ask(decision: Decision, count: int, total: int, *, yes: bool, json_output: bool) -> None:
    ask(decision.verb, "dead letters", count, total, without_asking=decision.without_asking, yes=yes, json_output=json_output)


def _tell(decision: Decision, changed: Sequence[int], refused: dict[int, str], total: int, *, json_output: bool) -> None:
    if json_output:
        reasons = [{"id": dead_letter_id, "reason": reason} for dead_letter_id, reason in refused.items()]
        print_json({decision.done: changed, "count": len(changed), "found": total, "refused": reasons})
        return
    for dead_letter_id, reason in refused.items():
        print(f"{dead_letter_id}: {reason}")
    if not changed:
        print(f"nothing to {decision.verb}")
        return
    what = f"{_letters(len(changed))} {'to be retried' if decision.verb == 'retry' else decision.done}"
    print(f"{what}; {decision.hint}")


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"
