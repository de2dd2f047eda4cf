-- Every life of the log, oldest first; opens none.
-- Returns epoch bigint, log_id uuid, began_after bigint, began_at timestamptz. Takes no locks.
SELECT epoch,
       log_id,
       began_after,
       began_at
  FROM headwater.log_epochs
 ORDER BY epoch
