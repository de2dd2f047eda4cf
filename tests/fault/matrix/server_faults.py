"""What is done to PostgreSQL and to brokers, once; the rows say how often."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from aiokafka.admin import AIOKafkaAdminClient

from headwater.embedded.kafka_node import KafkaNode
from headwater.testing import eventually
from tests.fault.matrix.bed import END_SECONDS_MAX, pid_signal
from tests.fault.matrix.member_process import CATEGORY
from tests.fault.matrix.proxies import Proxy
from tests.fault.matrix.row import REFUSED_SECONDS_MAX, Row

PAUSE_SECONDS = 2.5
"""Longer than a lease, a consumer's session and a broker's."""


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


async def sigkill_postgres(row: Row) -> None:
    await asyncio.to_thread(row.bed.postgres.kill)
    await row.moment(0.5)
    await asyncio.to_thread(row.bed.postgres.start)


async def restart_postgres(row: Row) -> None:
    """A fast shutdown: everybody is cut off, everything is written."""
    pid_signal(row.bed.postgres.pid, signal.SIGINT)
    await eventually(lambda: not row.bed.postgres.running, END_SECONDS_MAX)
    await asyncio.to_thread(row.bed.postgres.start)


async def sigstop_postgres(row: Row) -> None:
    """Longer than a lease: all run out at once, and everybody comes back at once."""
    row.bed.postgres.pause()
    try:
        await asyncio.sleep(PAUSE_SECONDS)
        await row.moment(0.5)
    finally:
        row.bed.postgres.resume()


async def cut_postgres(row: Row) -> None:
    """Every connection of everybody; every other time nobody can come back for a while."""
    await _cut(row, row.bed.postgres_proxies())


async def _cut(row: Row, proxies: Sequence[Proxy]) -> None:
    is_long = row.chance.random() < 0.5
    for proxy in proxies:
        proxy.refuses = lambda _client: is_long
        row.counts["connections_cut"] += proxy.cut()
    try:
        if is_long:
            await row.moment(REFUSED_SECONDS_MAX)
    finally:
        for proxy in proxies:
            proxy.refuses = lambda _client: False


# -- brokers: the only one, or the leader of three ---------------------------------------------------------------------


async def _leader(row: Row) -> KafkaNode:
    """The broker that leads one of the partitions that are being written; with one broker that is the one."""
    leader, _ = await _replicas(row, await _some_partition(row))
    return row.bed.kafka.nodes[leader - 1]


async def _some_partition(row: Row) -> int:
    return row.chance.randrange(6)


async def _replicas(row: Row, partition: int) -> tuple[int, list[int]]:
    """Who leads a partition of the topic, and who is in sync with it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=row.bed.kafka.bootstrap)
    await admin.start()
    try:
        (topic,) = await admin.describe_topics([CATEGORY])
        facts = next(facts for facts in topic["partitions"] if facts["partition"] == partition)
        return int(facts["leader"]), [int(node) for node in facts["isr"]]
    finally:
        await admin.close()


async def sigkill_broker(row: Row) -> None:
    node = await _leader(row)
    await asyncio.to_thread(node.kill)
    await row.moment(0.5 if row.bed.broker_count == 1 else 3.0)
    await asyncio.to_thread(node.start)


async def restart_broker(row: Row) -> None:
    """SIGTERM: it closes its files in good order, and one of three hands over first."""
    node = await _leader(row)
    pid_signal(node.pid, signal.SIGTERM)
    await eventually(lambda: not node.running, END_SECONDS_MAX)
    await asyncio.to_thread(node.start)


async def sigstop_broker(row: Row) -> None:
    """Longer than its session: of three, the others have a new leader when it goes on and still believes to be the one."""
    node = await _leader(row)
    node.pause()
    try:
        await asyncio.sleep(PAUSE_SECONDS)
        await row.moment(0.5)
    finally:
        node.resume()
    await row.bed.kafka.await_in_service()


async def cut_broker(row: Row) -> None:
    """Every connection to it, of clients and of the brokers that follow it; every other time nobody can come back for a while."""
    node = await _leader(row)
    await _cut(row, [row.bed.kafka.proxies[node.node_id - 1]])


async def leader_killed_with_stalled_follower(row: Row) -> None:
    """A follower stands still, so that batches are with the leader and not acknowledged; the relay dies, then the leader; the follower goes on."""
    leader, in_sync = await _replicas(row, await _some_partition(row))
    followers = [number for number in in_sync if number != leader]
    assert followers, "nobody was in sync with the leader"
    follower, victim = row.bed.kafka.nodes[row.chance.choice(followers) - 1], await row.a_relay()
    follower.pause()
    try:
        await row.moment(1.0)
        await victim.end(signal.SIGKILL)
        await row.bed.replace(victim)
        await row.moment(1.0)
        await asyncio.to_thread(row.bed.kafka.nodes[leader - 1].kill)
        await row.moment(0.5)
    finally:
        follower.resume()
    await row.moment(3.0)
    await asyncio.to_thread(row.bed.kafka.nodes[leader - 1].start)
    await row.bed.kafka.await_in_service()
