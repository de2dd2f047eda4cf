-- Let messages wait behind what is parked, in the order given.
-- Arrays of equal length: $1 parked_key_ids bigint[], $2 record_offsets bigint[], $3 event_ids uuid[], $4 event_types text[], $5 versions bigint[],
-- $6 log_ids uuid[], $7 log_positions text[], $8 raw records text[] (JSON)
-- Returns nothing. Locks the keys against being removed.
INSERT INTO headwater.parked_messages (parked_key_id, record_offset, event_id, event_type, version, log_id, log_position, raw)
SELECT parked_key_id,
       record_offset,
       event_id,
       event_type,
       version,
       log_id,
       log_position,
       raw::jsonb
  FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::text[], $5::bigint[], $6::uuid[], $7::text[], $8::text[]) WITH ORDINALITY
    AS parked(parked_key_id, record_offset, event_id, event_type, version, log_id, log_position, raw, place)
 ORDER BY place
