-- Whether this session can open the log: its schema is there, this role may, and the server is no standby.
-- Returns one boolean. Takes no locks.
SELECT NOT pg_is_in_recovery()
       AND EXISTS (SELECT
                     FROM pg_proc AS functions
                     JOIN pg_namespace AS schemas ON schemas.oid = functions.pronamespace
                    WHERE schemas.nspname = 'headwater'
                      AND functions.proname = 'open_log'
                      AND has_schema_privilege(schemas.oid, 'USAGE')
                      AND has_function_privilege(functions.oid, 'EXECUTE'))
