-- Let one process at a time make a projection's schema and tables, until the end of the transaction.
-- $1 projection's name text. Takes an advisory lock of two keys (ours: 18522); readers are not kept out by it.
SELECT pg_advisory_xact_lock(18522, hashtext('headwater.' || $1))
