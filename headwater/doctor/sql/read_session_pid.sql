-- Which of the server's processes answers.
-- Returns one integer. Takes no locks.
SELECT pg_backend_pid()
