"""`headwater outbox`: how far the log got into Kafka, and into how many partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer

from headwater.cli.add_partitions import add_partitions_command
from headwater.cli.database import open_database
from headwater.cli.output import JsonOption, LimitOption, print_json, print_table, shown
from headwater.cli.running import run_async

if TYPE_CHECKING:
    from headwater.outbox import OutboxStatus, ShardFacts

PARTITIONS_DEFAULT: Final = 100
"""Partitions that `status` prints for people."""

outbox_commands = typer.Typer(no_args_is_help=True, help="The way from the log to Kafka. Example: `headwater outbox status`")
outbox_commands.command("add-partitions")(add_partitions_command)


@outbox_commands.command("status")
def status_command(json_output: JsonOption = False, limit: LimitOption = PARTITIONS_DEFAULT) -> None:
    """Who relays each shard, until when its lease lasts, how far Kafka has acknowledged, and how many events wait.

    Read from the relay's own rows; Kafka is not asked. --limit is for the table of partitions. Example: `headwater outbox status --json`
    """
    run_async(_status(limit=limit, json_output=json_output))


async def _status(*, limit: int, json_output: bool) -> None:
    from headwater.outbox import read_outbox_status

    async with open_database() as database:
        status = await read_outbox_status(database)
    if json_output:
        print_json(_status_facts(status))
        return
    print(_who_relays(status))
    shard_columns = ("shard", "held by", "term", "lease until", "relayed through", "saved", "waiting", "oldest from")
    print_table(shard_columns, [_shard_row(shard) for shard in status.shards], empty="there are no shards")
    print(
        f"The log can be read up to {shown(status.horizon)}. A shard's events wait among those counted; others of them are other shards'."
    )
    print()
    partitions = [
        (p.partition.topic, p.partition.number, str(p.last.position), p.last.offset, p.acknowledged_at) for p in status.partitions[:limit]
    ]
    columns = ("topic", "partition", "last position", "offset", "acknowledged")
    print_table(columns, partitions, empty="nothing was relayed to any partition yet")
    if len(status.partitions) > limit:
        print(f"{limit} of {len(status.partitions)} partitions; --limit shows more")


def _who_relays(status: OutboxStatus) -> str:
    alone = [shard.shard for shard in status.shards if not shard.is_held]
    if len(alone) == len(status.shards):
        return "nobody relays now: start the service, or see why it stopped"
    relays = len({shard.holder for shard in status.shards if shard.is_held})
    line = f"{len(status.shards) - len(alone)} of {len(status.shards)} shards are relayed, by {relays} relay{'s' if relays > 1 else ''}"
    if alone:
        line += f"; shards {', '.join(alone)}: nobody relays them now, which a running relay mends within seconds"
    return line


def _shard_row(shard: ShardFacts) -> tuple[object, ...]:
    holder = shard.holder if shard.is_held else f"nobody ({shard.holder} ended)" if shard.holder else "nobody"
    until = shard.lease_expires_at if shard.is_held else None
    oldest = shard.oldest_waiting_at if shard.lag_events else None
    return shard.shard, holder, shard.term, until, str(shard.relayed_through), shard.relayed_at, lag_text(shard.lag_events), oldest


def lag_text(event_count: int) -> str:
    """A count of events that stops at its maximum."""
    from headwater.eventstore import LAG_COUNT_MAX

    return f"{event_count:,}{' or more' if event_count >= LAG_COUNT_MAX else ''} events"


def _status_facts(status: OutboxStatus) -> dict[str, Any]:
    return {
        "horizon": status.horizon,
        "shards": [
            {
                "shard": shard.shard,
                "is_held": shard.is_held,
                "holder": shard.holder,
                "term": shard.term,
                "lease_expires_at": shard.lease_expires_at,
                "relayed_through": str(shard.relayed_through),
                "relayed_at": shard.relayed_at,
                "lag_events": shard.lag_events,
                "oldest_waiting_at": shard.oldest_waiting_at,
            }
            for shard in status.shards
        ],
        "topics": status.topics,
        "partitions": [
            {
                "topic": p.partition.topic,
                "partition": p.partition.number,
                "position": str(p.last.position),
                "offset": p.last.offset,
                "acknowledged_at": p.acknowledged_at,
            }
            for p in status.partitions
        ],
    }
