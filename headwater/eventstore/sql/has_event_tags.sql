-- Whether this schema keeps tags of events. Returns one boolean. Takes no locks.
SELECT to_regclass('headwater.event_tags') IS NOT NULL
