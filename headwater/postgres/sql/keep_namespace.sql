-- Give this log a namespace of its own for its append locks, if another log of this database has the same: a schema was restored beside others.
-- Returns one bigint. Waits for appends in flight if it has to; takes the migrators' lock.
SELECT headwater.claim_lock_namespace()
