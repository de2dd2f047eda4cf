-- The next dead letter to be tried again, locked until the transaction ends, so that of several workers one tries it.
-- $1 group_name text, $2 handler_names text[], $3 ids to leave alone for now bigint[]
-- Returns it whole, or nothing. One of the same stream and handler that is older comes first, also while another worker tries it, so that what is
-- retried together keeps its order. Locks the row, passing over locked ones; relies on dead_letters_retrying_idx.
SELECT letters.dead_letter_id,
       letters.group_name,
       letters.handler_name,
       letters.topic,
       letters.partition,
       letters.record_offset,
       letters.log_id,
       letters.log_position,
       letters.event_id,
       letters.stream_name,
       letters.version,
       letters.event_type,
       letters.data,
       letters.metadata::text AS metadata,
       letters.recorded_at,
       letters.raw::text AS raw,
       letters.error_type,
       letters.error_message,
       letters.traceback,
       letters.attempts,
       letters.first_failed_at,
       letters.last_failed_at,
       letters.status,
       letters.retry_requested_at,
       letters.settled_at,
       letters.stored_at
  FROM headwater.dead_letters AS letters
 WHERE letters.group_name = $1
   AND letters.status = 'retrying'
   AND letters.handler_name = ANY ($2::text[])
   AND letters.dead_letter_id <> ALL ($3::bigint[])
   AND NOT EXISTS (
           SELECT
             FROM headwater.dead_letters AS older
            WHERE older.group_name = letters.group_name
              AND older.status = 'retrying'
              AND older.handler_name = letters.handler_name
              AND older.stream_name = letters.stream_name
              AND older.dead_letter_id < letters.dead_letter_id
       )
 ORDER BY letters.dead_letter_id
 LIMIT 1
   FOR NO KEY UPDATE OF letters SKIP LOCKED
