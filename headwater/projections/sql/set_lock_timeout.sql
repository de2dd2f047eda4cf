-- Wait for locks at most this long until the end of the transaction.
-- $1 with its unit, text
SELECT set_config('lock_timeout', $1, true)
