-- How long this transaction's statements wait for a lock at most.
-- $1 lock_timeout text with its unit
SELECT set_config('lock_timeout', $1, true)
