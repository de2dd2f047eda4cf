-- The keys of these ids, those of forgotten subjects without their key.
-- $1 key_ids uuid[]
-- Returns one row for each that is known. Takes no locks; index subject_keys_key_id_key.
SELECT subject,
       key_id,
       wrapped_key,
       wrapped_by,
       forgotten_at
  FROM headwater.subject_keys
 WHERE key_id = ANY ($1::uuid[])
