-- Into how many partitions the log falls: what was kept before, else what is given now.
-- $1 partition_count integer
-- Returns one integer. Writes one row at first use; relies on log_partitioning_pkey. Two at once: the second waits for the first, and asks again.
WITH kept AS (
    INSERT INTO headwater.log_partitioning (partition_count)
    SELECT $1::integer
     WHERE NOT EXISTS (SELECT FROM headwater.log_partitioning)
    ON CONFLICT ON CONSTRAINT log_partitioning_pkey DO NOTHING
    RETURNING partition_count
)
SELECT partition_count FROM kept
UNION ALL
SELECT partition_count FROM headwater.log_partitioning
 LIMIT 1
