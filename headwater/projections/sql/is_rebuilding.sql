-- Whether a process rebuilds this projection now.
-- $1 projection's name text. Returns one boolean. Takes no locks; looks for the one of claim_rebuild.sql (two numbers: 18521 and the name's hash).
SELECT EXISTS (
           SELECT
             FROM pg_locks AS locks
            WHERE locks.locktype = 'advisory'
              AND locks.objsubid = 2
              AND locks.granted
              AND locks.database = (SELECT databases.oid FROM pg_database AS databases WHERE databases.datname = current_database())
              AND locks.classid = 18521::oid
              AND locks.objid::bigint = hashtext('headwater.' || $1)::bigint & 4294967295
       )
