-- Dead letters that nobody has settled, oldest first.
-- $1 group_name text or NULL for all, $2 after bigint (exclusive id), $3 limit bigint
-- Returns them whole. Takes no locks; relies on dead_letters_group_name_idx or dead_letters_pkey.
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
       last_failed_at
  FROM headwater.dead_letters
 WHERE ($1::text IS NULL OR group_name = $1)
   AND dead_letter_id > $2
   AND settled_at IS NULL
 ORDER BY dead_letter_id
 LIMIT $3
