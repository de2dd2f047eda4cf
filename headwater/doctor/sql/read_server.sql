-- The server, and how this login came to it.
-- Returns version text, version_number integer, is_standby boolean, database text, login text, is_superuser boolean, sees_all_sessions boolean, is_encrypted boolean,
-- is_local boolean (from this machine or over a socket), session_pid integer. Takes no locks.
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::integer AS version_number,
       pg_is_in_recovery() AS is_standby,
       current_database()::text AS database,
       current_user::text AS login,
       (SELECT roles.rolsuper FROM pg_roles AS roles WHERE roles.rolname = current_user) AS is_superuser,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all_sessions,
       coalesce((SELECT sessions.ssl FROM pg_stat_ssl AS sessions WHERE sessions.pid = pg_backend_pid()), FALSE) AS is_encrypted,
       coalesce(inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1' OR inet_client_addr() = inet_server_addr(), TRUE) AS is_local,
       pg_backend_pid() AS session_pid
