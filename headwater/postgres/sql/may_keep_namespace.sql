-- Whether this login owns the log's functions, or acts for who does.
-- Returns one boolean. Takes no locks.
SELECT EXISTS (
           SELECT
             FROM pg_proc AS functions
            WHERE functions.pronamespace = to_regnamespace('headwater')
              AND functions.proname = 'claim_lock_namespace'
              AND pg_has_role(current_user, functions.proowner, 'USAGE')
       )
