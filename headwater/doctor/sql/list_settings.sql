-- Settings as they hold for this session, and where each comes from.
-- $1 names text[]
-- Returns name text, setting text, source text. Takes no locks.
SELECT name,
       setting,
       source
  FROM pg_settings
 WHERE name = ANY ($1::text[])
