-- Keep what one turn made of a saga: its row, its deadlines, its history.
-- $1 saga_type text, $2 saga_key text, $3 phase text, $4 status text, $5 state jsonb, $6 steps jsonb, $7 reason text, $8 cause_id uuid,
-- $9 kinds of deadlines to remove text[]; single ones to remove: $10 kinds text[], $11 names text[];
-- those to set, none of which is removed: $12 kinds text[], $13 names text[], $14 moments timestamptz[] or NULL in it for
-- $15 seconds from now double precision[], $16 period_seconds double precision[], $17 attempts integer[], $18 errors text[], $19 is_failed boolean[];
-- transitions: $20 kinds text[], $21 subjects text[], $22 details text[]
-- Returns nothing. The caller has locked the saga's row; relies on the primary keys.
WITH saga AS (
    UPDATE headwater.sagas
       SET phase = $3,
           status = $4,
           state = $5::text::jsonb,
           steps = $6::text::jsonb,
           reason = $7,
           cause_id = $8,
           history_count = history_count + cardinality($20::text[]),
           updated_at = clock_timestamp(),
           ended_at = CASE WHEN $3 IN ('completed', 'compensated') THEN clock_timestamp() END
     WHERE saga_type = $1
       AND saga_key = $2
    RETURNING history_count - cardinality($20::text[]) AS history_count_before
),
removed_deadlines AS (
    DELETE FROM headwater.saga_deadlines
     WHERE saga_type = $1
       AND saga_key = $2
       AND (kind = ANY ($9::text[]) OR (kind, name) IN (SELECT * FROM unnest($10::text[], $11::text[])))
       AND (kind, name) NOT IN (SELECT * FROM unnest($12::text[], $13::text[]))
),
set_deadlines AS (
    INSERT INTO headwater.saga_deadlines AS deadlines (saga_type, saga_key, kind, name, due_at, period_seconds, attempts, error, is_failed)
    SELECT $1, $2, given.kind, given.name, COALESCE(given.moment, clock_timestamp() + make_interval(secs => given.seconds)),
           given.period_seconds, given.attempts, given.error, given.is_failed
      FROM unnest(
               $12::text[], $13::text[], $14::timestamptz[], $15::double precision[], $16::double precision[], $17::integer[], $18::text[],
               $19::boolean[]
           ) AS given (kind, name, moment, seconds, period_seconds, attempts, error, is_failed)
    ON CONFLICT ON CONSTRAINT saga_deadlines_pkey DO UPDATE
       SET due_at = EXCLUDED.due_at,
           period_seconds = EXCLUDED.period_seconds,
           attempts = EXCLUDED.attempts,
           error = EXCLUDED.error,
           is_failed = EXCLUDED.is_failed
)
INSERT INTO headwater.saga_history (saga_type, saga_key, number, kind, subject, detail)
SELECT $1, $2, saga.history_count_before + given.number, given.kind, given.subject, given.detail
  FROM saga,
       unnest($20::text[], $21::text[], $22::text[]) WITH ORDINALITY AS given (kind, subject, detail, number)
