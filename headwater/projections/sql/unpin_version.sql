-- Wait until nobody keeps the live version from being switched, and keep others from it until the end of the transaction.
-- $1 projection's name text. Takes the advisory lock of pin_version, exclusively.
SELECT pg_advisory_xact_lock(18520, hashtext('headwater.' || $1))
