-- Give subjects their keys; who has one, or had one, keeps that. Read again afterwards: another process may have been first.
-- $1 subjects text[], sorted: writers of several take their rows in one order
-- $2 key_ids uuid[]
-- $3 wrapped_keys bytea[]
-- $4 wrapped_by text, null for keys stored as they are
-- Waits for other inserts of the same subjects to end.
INSERT INTO headwater.subject_keys (subject, key_id, wrapped_key, wrapped_by)
SELECT given.subject, given.key_id, given.wrapped_key, $4
  FROM unnest($1::text[], $2::uuid[], $3::bytea[]) AS given (subject, key_id, wrapped_key)
    ON CONFLICT ON CONSTRAINT subject_keys_pkey DO NOTHING
