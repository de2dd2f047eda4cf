-- Begin what one handler does, so that it can be undone alone. Takes no locks.
SAVEPOINT headwater_handler
