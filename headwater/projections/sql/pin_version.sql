-- Keep the live version from being switched away until the end of the transaction.
-- $1 projection's name text. Takes a shared advisory lock of two keys (ours: 18520), which those of the log, of one key, never meet.
SELECT pg_advisory_xact_lock_shared(18520, hashtext('headwater.' || $1))
