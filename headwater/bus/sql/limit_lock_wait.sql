-- Wait for a partition's row only so long: an owner that was paused between its update and its commit holds it. For one transaction.
-- $1 milliseconds text. Returns the setting.
SELECT set_config('lock_timeout', $1, true)
