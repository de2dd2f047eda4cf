-- One dead letter.
-- $1 dead_letter_id bigint. Returns it or nothing. Takes no locks; relies on dead_letters_pkey.
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
 WHERE dead_letter_id = $1
