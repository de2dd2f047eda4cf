-- The server process behind this connection, and the name under which the log's doorbell is heard.
-- Returns server_pid integer, channel text. Takes no locks.
SELECT pg_backend_pid() AS server_pid,
       'headwater_log_' || headwater.append_lock_namespace() AS channel
