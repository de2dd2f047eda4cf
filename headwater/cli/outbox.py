"""`headwater outbox`: how far the log got into Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer

from headwater.cli.database import open_database
from headwater.cli.output import JsonOption, LimitOption, print_facts, print_json, print_table, shown
from headwater.cli.running import run_async

if TYPE_CHECKING:
    from headwater.outbox import OutboxStatus, ShardFacts

PARTITIONS_DEFAULT: Final = 100
"""Partitions that `status` prints for people."""

outbox_commands = typer.Typer(no_args_is_help=True, help="Look at the way from the log to Kafka. Example: `headwater outbox status`")


@outbox_commands.command("status")
def status_command(json_output: JsonOption = False, limit: LimitOption = PARTITIONS_DEFAULT) -> None:
    """Who relays, until when its lease lasts, how far Kafka has acknowledged, and how many events wait.

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
    for shard in status.shards:
        print_facts(_shard_lines(shard, status.horizon))
        print()
    partitions = [
        (p.partition.topic, p.partition.number, str(p.last.position), p.last.offset, p.acknowledged_at) for p in status.partitions[:limit]
    ]
    columns = ("topic", "partition", "last position", "offset", "acknowledged")
    print_table(columns, partitions, empty="nothing was relayed to any partition yet")
    if len(status.partitions) > limit:
        print(f"{limit} of {len(status.partitions)} partitions; --limit shows more")


def _shard_lines(shard: ShardFacts, horizon: int) -> dict[str, object]:
    lease = "nobody relays now: start the service, or see why it stopped"
    if shard.is_held:
        lease = f"held by {shard.holder}, term {shard.term}, until {shown(shard.lease_expires_at)}"
    elif shard.holder is not None:
        lease = f"{lease} (term {shard.term} ended at {shown(shard.lease_expires_at)})"
    return {
        "shard": shard.shard,
        "lease": lease,
        "relayed through": f"{shard.relayed_through} of {shown(horizon)}",
        "saved": shard.relayed_at,
        "lag": f"{lag_text(shard.lag_events)}" + (f", the oldest from {shown(shard.oldest_waiting_at)}" if shard.lag_events else ""),
    }


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
