-- The server's clock.
-- Returns one timestamptz. Takes no locks.
SELECT clock_timestamp()
