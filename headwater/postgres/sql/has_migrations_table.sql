-- Whether Headwater's schema was ever applied here.
-- Returns one boolean. Takes no locks.
SELECT to_regclass('headwater.migrations') IS NOT NULL
