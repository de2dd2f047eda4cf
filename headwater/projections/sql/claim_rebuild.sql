-- Become the one who rebuilds this projection, for as long as this connection lives.
-- $1 projection's name text. Returns whether nobody else is. Takes a session-level advisory lock (ours: 18521) without waiting.
SELECT pg_try_advisory_lock(18521, hashtext('headwater.' || $1))
