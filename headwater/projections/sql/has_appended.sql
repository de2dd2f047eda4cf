-- Whether this transaction appended to the log and has not undone it.
SELECT coalesce(current_setting('headwater.append_lock', true) = pg_current_xact_id_if_assigned()::text, false)
