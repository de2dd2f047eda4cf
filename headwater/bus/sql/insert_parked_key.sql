-- Park a key: what failed and what comes after it wait. In the transaction that moves the position past the first message.
-- $1 group_name, $2 handler_name, $3 topic, $4 partition, $5 message_key, $6 status, $7 delay in seconds double precision, $8 attempts, $9 retries,
-- $10 error_type, $11 error_message, $12 traceback, $13 first_failed_at, $14 last_failed_at
-- Returns parked_key_id bigint. The key must not be parked: parked_keys_key_once.
INSERT INTO headwater.parked_keys (
    group_name, handler_name, topic, partition, message_key, status, due_at, attempts, retries,
    error_type, error_message, traceback, first_failed_at, last_failed_at
)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7 * interval '1 second', $8, $9, $10, $11, $12, $13, $14)
RETURNING parked_key_id
