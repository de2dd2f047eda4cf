"""What is done to relays and consumers, once; the rows say how often."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from headwater.testing import eventually
from tests.fault.matrix.bed import WAIT_SECONDS, Bed, Member
from tests.fault.matrix.member_process import CATEGORY
from tests.fault.matrix.proxies import HeldRequest
from tests.fault.matrix.row import REFUSED_SECONDS_MAX, Row

SMALL_BYTES = 2_000
"""Less than the large ones among the events take."""
MORE_EVENTS = 500
"""With large ones among them."""


# -- members: any relay, any consumer ----------------------------------------------------------------------------------


async def sigkill(row: Row, victim: Member) -> None:
    await victim.end(signal.SIGKILL)
    await row.bed.replace(victim)


async def restart(row: Row, victim: Member) -> None:
    """In good order: it gives back what it has."""
    await victim.end(signal.SIGTERM)
    assert victim.process.exitcode == 0, f"{victim.name} ended with {victim.process.exitcode}: {victim.facts[-3:]}"
    await row.bed.replace(victim)


async def cut(row: Row, victim: Member) -> None:
    """Its connections to PostgreSQL, to Kafka, or to both, all at once; every other time it cannot come back for up to twice as long as a lease."""
    proxies = {"postgres": [victim.proxy], "kafka": row.bed.kafka.proxies}
    sides = row.chance.choice([["postgres"], ["kafka"], ["postgres", "kafka"]])
    is_long = row.chance.random() < 0.5
    row.counts[f"cut_from_{'_and_'.join(sides)}"] += 1
    row.counts["refused_for_a_while"] += is_long
    for proxy in (proxy for side in sides for proxy in proxies[side]):
        # The proxy before PostgreSQL has this client alone, and knows no names.
        client = victim.name if proxy.speaks_kafka else ""
        if is_long:
            proxy.refuses = lambda name, client=client: name == client
        proxy.cut(client)
    try:
        if is_long:
            await row.moment(REFUSED_SECONDS_MAX)
    finally:
        for proxy in (victim.proxy, *row.bed.kafka.proxies):
            proxy.refuses = lambda _client: False


async def sigkill_relay(row: Row) -> None:
    await sigkill(row, await row.a_relay())


async def sigkill_consumer(row: Row) -> None:
    await sigkill(row, await row.a_consumer())


async def restart_relay(row: Row) -> None:
    await restart(row, await row.a_relay())


async def restart_consumer(row: Row) -> None:
    await restart(row, await row.a_consumer())


async def cut_relay(row: Row) -> None:
    await cut(row, await row.a_relay())


async def cut_consumer(row: Row) -> None:
    await cut(row, await row.a_consumer())


async def freeze_relay(row: Row) -> Member:
    """Stop one until others relay everything that it did."""
    while True:
        victim = await row.a_relay()
        victim.signal(signal.SIGSTOP)
        # Asked only now: what it holds can change no more, unless others take it.
        if await taken_over(row, victim):
            return victim
        victim.signal(signal.SIGCONT)


async def taken_over(row: Row, victim: Member) -> bool:
    """Return when others have all that a relay holds that is dead or stopped; False if it holds nothing."""
    terms = await row.bed.terms()
    if not (held := await row.bed.shards_of(victim, also_expired=True)):
        return False

    async def so() -> bool:
        now = await row.bed.terms()
        return all(now[shard] > terms[shard] for shard in held)

    await eventually(so, WAIT_SECONDS)
    return True


async def thaw_relay(row: Row, victim: Member) -> None:
    """Let it go on, and find out that it lost everything."""
    losses = victim.told("lease_lost")
    victim.signal(signal.SIGCONT)
    await eventually(lambda: victim.told("lease_lost") > losses, WAIT_SECONDS)
    row.counts["thawed_to_find_its_leases_lost"] += 1


async def sigstop_relay(row: Row) -> None:
    victim = await freeze_relay(row)
    await row.moment(0.3)
    await thaw_relay(row, victim)


async def relay_thawed_late(row: Row) -> None:
    """Thawed only when another has relayed all that was written, and much that came later."""
    victim = await freeze_relay(row)
    await row.bed.relayed_through(await row.bed.last_position())
    await row.moment(1.0)
    await thaw_relay(row, victim)


async def sigstop_consumer(row: Row) -> None:
    """Stop one until others claimed all its partitions, then let it go on with the batch that it had in hand."""
    victim = await row.a_consumer()
    before = await row.bed.epochs()
    victim.signal(signal.SIGSTOP)
    lost = row.bed.partitions_of(victim)

    async def are_claimed() -> bool:
        now = await row.bed.epochs()
        return all(now[partition] > before.get(partition, 0) for partition in lost)

    try:
        await eventually(are_claimed, WAIT_SECONDS)
        await row.moment(0.3)
    finally:
        victim.signal(signal.SIGCONT)


async def request_delivered_late(row: Row) -> None:
    """A produce request waits in the proxy; its relay is killed, or stopped, and replaced; then the request arrives."""
    victim = await row.a_relay()
    held = HeldRequest(victim.name)
    for proxy in row.bed.kafka.proxies:
        proxy.held = held
    await asyncio.wait_for(held.caught.wait(), WAIT_SECONDS)
    is_killed = row.chance.random() < 0.5
    row.counts["relay_killed" if is_killed else "relay_stopped"] += 1
    if is_killed:
        await victim.end(signal.SIGKILL)
    else:
        victim.signal(signal.SIGSTOP)
    was_holding = await taken_over(row, victim)
    if is_killed:
        await row.bed.replace(victim)
    await row.bed.relayed_through(await row.bed.last_position())
    held.let_go.set()
    codes = await asyncio.wait_for(held.answer, WAIT_SECONDS)
    row.counts["late_batches"] += len(codes)
    row.counts["late_batches_refused_by_kafka"] += sum(code != 0 for code in codes)
    assert codes, "nothing was held back"
    assert all(codes), f"Kafka took a batch of a relay that was replaced: {codes}"
    for proxy in row.bed.kafka.proxies:
        proxy.held = None
    if not is_killed and was_holding:
        await thaw_relay(row, victim)
    elif not is_killed:
        victim.signal(signal.SIGCONT)


async def batch_refused(row: Row) -> None:
    """The topic takes only small records until a relay has stopped before a large one, then it takes all."""
    stops = sum(relay.told("partition_stopped") for relay in row.bed.relays)
    await _topic_settings(row.bed, {"max.message.bytes": str(SMALL_BYTES)})
    # All that may be written may be in Kafka already.
    row.bed.events_allowed.value += MORE_EVENTS
    try:

        def has_stopped() -> bool:
            return sum(relay.told("partition_stopped") for relay in row.bed.relays) > stops

        await eventually(has_stopped, WAIT_SECONDS)
        await row.moment(0.5)
    finally:
        await _topic_settings(row.bed, {})
    row.counts["partitions_stopped"] += sum(relay.told("partition_stopped") for relay in row.bed.relays) - stops


async def _topic_settings(bed: Bed, configs: Mapping[str, str]) -> None:
    """Kafka puts these in the place of all that were set."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bed.kafka.bootstrap)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, CATEGORY, configs={"retention.ms": "-1", **configs})])
    finally:
        await admin.close()
