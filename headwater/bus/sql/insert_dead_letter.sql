-- Keep one message that a handler gave up on.
-- $1 group_name, $2 handler_name, $3 topic, $4 partition, $5 record_offset, $6 log_id, $7 log_position, $8 event_id, $9 stream_name, $10 version,
-- $11 event_type, $12 data text, $13 metadata jsonb, $14 recorded_at, $15 raw jsonb, $16 error_type, $17 error_message, $18 traceback,
-- $19 attempts, $20 first_failed_at, $21 last_failed_at, $22 is_skipped boolean
-- Returns nothing. Takes no other locks.
INSERT INTO headwater.dead_letters (
    group_name, handler_name, topic, partition, record_offset, log_id, log_position, event_id, stream_name, version,
    event_type, data, metadata, recorded_at, raw, error_type, error_message, traceback, attempts, first_failed_at, last_failed_at,
    status, settled_at
)
VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
    CASE WHEN $22 THEN 'skipped' ELSE 'waiting' END, CASE WHEN $22 THEN clock_timestamp() END
)
