-- Fenced leases, for everything that several processes share without configuration. Why it looks like this: docs/decisions/0017-shared-relays.md.

-- The right to do something, by name. The term grows with every taking and never starts again, so it fences: what a holder writes may demand that
-- the row still has its term. Everybody's time is the database's. A lease that was given back has no holder; its row stays for its term.
CREATE TABLE headwater.leases (
    name       text        NOT NULL COLLATE "C" CONSTRAINT leases_pkey PRIMARY KEY,
    holder     text,
    term       bigint      NOT NULL CONSTRAINT leases_term_positive CHECK (term > 0),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Relays share the log by shards '1' to '6'; before, one relay moved the whole of it as shard '0'. That one must not go on beside them: without its
-- lease it stops, and saves nothing that it acknowledges from here on; the new ones find that in Kafka. Taken first, so that no save is under way.
DROP TABLE headwater.relay_leases;

-- `predecessor`: the shard of an earlier division whose relay, frozen perhaps, is still to be fenced off this one's partitions; NULL when it is.
ALTER TABLE headwater.relay_checkpoints ADD COLUMN predecessor text;
INSERT INTO headwater.relay_checkpoints (shard, epoch, global_position, event_id, predecessor)
SELECT heirs.number::text, whole.epoch, whole.global_position, whole.event_id, whole.shard
  FROM headwater.relay_checkpoints AS whole
 CROSS JOIN generate_series(1, 6) AS heirs(number)
 WHERE whole.shard = '0';
DELETE FROM headwater.relay_checkpoints WHERE shard = '0';
