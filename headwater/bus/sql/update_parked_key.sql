-- What is known of a parked key's first message now. A request that was carried out, or came too late, is taken off; a newer one stays.
-- $1 parked_key_id bigint, $2 status text, $3 delay in seconds double precision, $4 attempts, $5 retries, $6 error_type, $7 error_message, $8 traceback,
-- $9 first_failed_at, $10 last_failed_at, $11 requested_at timestamptz of the request to be taken off, or NULL
-- Returns nothing. Locks the row; relies on parked_keys_pkey.
UPDATE headwater.parked_keys
   SET status = $2,
       due_at = clock_timestamp() + $3 * interval '1 second',
       attempts = $4,
       retries = $5,
       error_type = $6,
       error_message = $7,
       traceback = $8,
       first_failed_at = $9,
       last_failed_at = $10,
       request = CASE WHEN requested_at = $11 THEN NULL ELSE request END,
       requested_for = CASE WHEN requested_at = $11 THEN NULL ELSE requested_for END,
       requested_at = CASE WHEN requested_at = $11 THEN NULL ELSE requested_at END
 WHERE parked_key_id = $1
