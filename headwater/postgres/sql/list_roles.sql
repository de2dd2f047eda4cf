-- The roles that were set up for this log.
-- Returns kind text, role_name text. Takes no locks.
SELECT kind,
       role_name
  FROM headwater.roles
