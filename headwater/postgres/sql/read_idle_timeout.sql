-- After how many milliseconds the server ends a transaction that does nothing; 0 for never.
-- Returns one text. Takes no locks.
SELECT setting
  FROM pg_settings
 WHERE name = 'idle_in_transaction_session_timeout'
