-- The moment. Returns now timestamptz.
SELECT clock_timestamp() AS now
