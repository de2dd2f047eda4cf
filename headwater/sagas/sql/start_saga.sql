-- Begin a saga, unless one of this key ever began.
-- $1 saga_type text, $2 saga_key text, $3 state jsonb, $4 correlation_id text, $5 cause_id uuid
-- Returns state text as stored, or nothing. Locks the new row, waiting for another who begins the same; relies on sagas_pkey.
INSERT INTO headwater.sagas (saga_type, saga_key, state, correlation_id, cause_id)
VALUES ($1, $2, $3::text::jsonb, $4, $5)
ON CONFLICT ON CONSTRAINT sagas_pkey DO NOTHING
RETURNING state::text AS state
