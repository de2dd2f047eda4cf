-- The keys of some subjects, those of forgotten ones without their key.
-- $1 subjects text[]
-- Returns one row for each that has a key or had one. Takes no locks; index subject_keys_pkey.
SELECT subject,
       key_id,
       wrapped_key,
       wrapped_by,
       forgotten_at
  FROM headwater.subject_keys
 WHERE subject = ANY ($1::text[])
