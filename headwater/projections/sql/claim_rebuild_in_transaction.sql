-- Become the one who rebuilds this projection, until the end of the transaction: for connections whose session is a pooler's.
-- $1 projection's name text. Returns whether nobody else is. Takes the advisory lock of claim_rebuild, without waiting.
SELECT pg_try_advisory_xact_lock(18521, hashtext('headwater.' || $1))
