-- Wake who listens to the log in other sessions; does nothing, and writes nothing, where nobody does.
-- Returns whether somebody may have heard it. Run it in a transaction of its own: it makes that one's commit asynchronous.
-- Takes the listeners' advisory lock for its own duration, without waiting, if no other session holds it: then nobody listens.
SELECT CASE
           WHEN pg_try_advisory_xact_lock((headwater.append_lock_namespace() << 48) | 281474976710655) THEN false
           ELSE set_config('synchronous_commit', 'off', true) IS NOT NULL
                AND pg_notify('headwater_log_' || headwater.append_lock_namespace(), '') IS NOT NULL
       END
