-- Dead letters with what was decided about them, oldest first.
-- $1 ids bigint[], $2 group_name text, $3 handler_name text, $4 event_type text: NULL for all; $5 statuses text[], $6 after bigint (exclusive id),
-- $7 limit bigint. Returns them whole. Takes no locks; relies on dead_letters_pkey.
SELECT dead_letter_id,
       group_name,
       handler_name,
       topic,
       partition,
       record_offset,
       log_id,
       log_position,
       event_id,
       stream_name,
       version,
       event_type,
       data,
       metadata::text AS metadata,
       recorded_at,
       raw::text AS raw,
       error_type,
       error_message,
       traceback,
       attempts,
       first_failed_at,
       last_failed_at,
       status,
       retry_requested_at,
       settled_at,
       stored_at
  FROM headwater.dead_letters
 WHERE ($1::bigint[] IS NULL OR dead_letter_id = ANY ($1))
   AND ($2::text IS NULL OR group_name = $2)
   AND ($3::text IS NULL OR handler_name = $3)
   AND ($4::text IS NULL OR event_type = $4)
   AND status = ANY ($5::text[])
   AND dead_letter_id > $6
 ORDER BY dead_letter_id
 LIMIT $7
