"""`headwater outbox add-partitions`: more partitions for a topic, once everybody has handled what is in it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from headwater.cli.broker import configured_kafka
from headwater.cli.database import open_database
from headwater.cli.output import JsonOption, can_ask, print_json, print_table
from headwater.cli.running import run_async
from headwater.errors import UsageError

if TYPE_CHECKING:
    from headwater.kafka import KafkaSettings
    from headwater.outbox import AddedPartitions, TopicContent
    from headwater.postgres import Database

WAIT_SECONDS_DEFAULT: Final = 30.0
"""Groups of other services tell Kafka how far they got every few seconds only."""
LOOK_SECONDS: Final = 1.0
PARTITIONS_MAX: Final = 10_000
"""Far beyond what one cluster should carry; a slip of the finger is refused."""

TopicArgument = Annotated[
    str, typer.Argument(metavar="TOPIC", help="Its name in Kafka: the category, with the prefix of the log if it has one.")
]
PartitionsOption = Annotated[int, typer.Option("--partitions", min=1, max=PARTITIONS_MAX, help="As many as it is to have in all.")]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0.0, metavar="SECONDS", help="How long groups that are behind may take to catch up.")
]
ExceptOption = Annotated[
    list[str] | None,
    typer.Option("--except-group", metavar="GROUP", help="Do not look at this consumer group: it is gone for good. Repeatable."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Needed with --json, and where nobody can be asked.")]


@dataclass(slots=True)
class LookedAt:
    """Whom the command found to read the topic, and what kept it waiting."""

    groups: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Name, and how it was judged."""
    reasons: list[str] = field(default_factory=list[str])


def add_partitions_command(
    topic: TopicArgument,
    partitions: PartitionsOption,
    wait: WaitOption = WAIT_SECONDS_DEFAULT,
    except_group: ExceptOption = None,
    yes: YesOption = False,
    json_output: JsonOption = False,
) -> None:
    """Give a topic more partitions, so that more processes can share its work; only while nothing of it is on its way.

    Streams change their partition by it, so it refuses, and changes nothing, while a relay runs, while events of the topic are not relayed, or
    while a consumer group has yet to handle something. So: wait until `headwater outbox status` shows nothing waiting, end the processes of this
    log's services, and run this. Once it waits for groups to catch up, services may be started again: their handlers work, their relays wait
    for this. Cut off at any moment, it can be run again. Partitions cannot be removed. See docs/sources.md.

    Example: `headwater outbox add-partitions order --partitions 12`
    """
    if not yes and not can_ask(json_output=json_output):
        raise UsageError(f"this would divide {topic!r} anew, which cannot be undone, and nobody can be asked; repeat it with --yes")
    done, looked_at = run_async(add_partitions(topic, partitions, wait, frozenset(except_group or ()), yes=yes, quiet=json_output))
    if json_output:
        groups = [{"group": name, "judged_by": judged_by} for name, judged_by in looked_at.groups]
        facts = {"topic": done.topic, "was": done.was, "partitions": done.partition_count, "is_changed": done.was != done.partition_count}
        print_json({**facts, "through": str(done.through), "groups": groups})
    elif done.was == done.partition_count:
        print(f"{done.topic} has {done.partition_count} partitions already; nothing was changed")
    else:
        print(f"{done.topic} has {done.partition_count} partitions now, and had {done.was}. Start the services again.")


async def add_partitions(
    topic: str, count: int, wait_seconds: float, excepted: frozenset[str], *, yes: bool, quiet: bool
) -> tuple[AddedPartitions, LookedAt]:
    """What the command does, between the servers of the settings.

    Raises:
        TopicNotDrained, UsageError, RelayFenced, BrokerUnavailable, StorageUnavailable: see `PartitionAdding.run`.
    """
    from headwater.config import load_settings
    from headwater.eventstore import PostgresEventStore
    from headwater.outbox import KafkaRelayBroker, PartitionAdding, PostgresRelayPositions
    from headwater.postgres import topic_prefix

    settings = load_settings()
    kafka, prefix = configured_kafka(settings), topic_prefix(settings.log_schema)
    async with open_database() as database:
        adding = PartitionAdding(
            PostgresEventStore(database),
            KafkaRelayBroker(kafka),
            PostgresRelayPositions(database),
            topic=topic,
            partition_count=count,
            topic_prefix=prefix,
        )
        looking = _Looking(database, kafka, prefix, excepted, quiet=quiet)

        async def require_handled(content: TopicContent) -> None:
            await looking.require_handled(content, wait_seconds)
            if not yes:
                await _ask(topic, count, looking.found)

        _tell("taking the leases of all relays, and reading what the topic holds", quiet=quiet)
        return await adding.run(require_handled), looking.found


class _Looking:
    """Looks at every group that reads the topic until all have handled everything, or the time is over."""

    def __init__(self, database: Database, kafka: KafkaSettings, prefix: str, excepted: frozenset[str], *, quiet: bool) -> None:
        self._database, self._kafka, self._prefix, self._excepted, self._quiet = database, kafka, prefix, excepted, quiet
        self.found = LookedAt()

    async def require_handled(self, content: TopicContent, wait_seconds: float) -> None:
        from headwater.clock import SYSTEM_CLOCK
        from headwater.outbox import TopicNotDrained

        deadline = SYSTEM_CLOCK.monotonic() + wait_seconds
        while True:
            before = self.found.reasons
            self.found = await self._look(content)
            if not self.found.reasons:
                _tell(f"{len(self.found.groups)} consumer groups have handled everything", quiet=self._quiet)
                return
            if SYSTEM_CLOCK.monotonic() >= deadline:
                raise TopicNotDrained(content.topic, self.found.reasons)
            if self.found.reasons != before:
                _tell("waiting: " + "; ".join(self.found.reasons), quiet=self._quiet)
            await SYSTEM_CLOCK.sleep(LOOK_SECONDS)

    async def _look(self, content: TopicContent) -> LookedAt:
        from headwater.bus import read_group_progress, unhandled_by_group, unhandled_by_other
        from headwater.kafka import inspect_groups

        found = LookedAt()
        own = [group for group in await read_group_progress(self._database, content.topic) if group.group not in self._excepted]
        for group in own:
            found.groups.append((group.group, "its rows in this database"))
            found.reasons += unhandled_by_group(group, content)
        known = {self._prefix + group.group for group in own} | self._excepted
        for other in await inspect_groups(self._kafka, [content.topic]):
            if other.name not in known:
                found.groups.append((other.name, "the offsets it committed to Kafka"))
                found.reasons += unhandled_by_other(other, content)
        return found


async def _ask(topic: str, count: int, looked_at: LookedAt) -> None:
    print_table(("consumer group", "judged by"), looked_at.groups, empty="no consumer group was found")
    print(
        "Groups that commit no offsets to Kafka, and keep none here, cannot be seen: are there any, they must have handled everything, too."
    )
    # In a thread: the leases are renewed meanwhile.
    await asyncio.to_thread(typer.confirm, f"divide {topic} among {count} partitions? It cannot be undone.", abort=True)


def _tell(what: str, *, quiet: bool) -> None:
    if not quiet:
        print(what, file=sys.stderr, flush=True)
