-- Whether this log's schema knows roles yet.
-- Returns one boolean. Takes no locks.
SELECT to_regclass('headwater.roles') IS NOT NULL
