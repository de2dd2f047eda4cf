-- See which log this is; opens a new epoch when the server, its timeline or the database is another than before.
-- Returns nothing of use. Locks log_epochs against other openers when it adds an epoch.
SELECT count(*)
  FROM headwater.open_log()
