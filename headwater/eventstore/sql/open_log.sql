-- Which log this is, with every epoch it had; opens a new epoch when the server, its timeline or the database changed.
-- Returns log_epochs, oldest first. Locks log_epochs against other openers when it adds one.
SELECT epoch,
       log_id,
       began_after
  FROM headwater.open_log()
 ORDER BY epoch
