-- Say that this session hears the log's doorbell, until it ends.
-- Takes a shared, session-level advisory lock on the highest position of the log's namespace, which no append reaches; waits out a ring in progress.
SELECT pg_advisory_lock_shared((headwater.append_lock_namespace() << 48) | 281474976710655)
