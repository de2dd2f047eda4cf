-- Keep what one handler did, until the whole transaction commits. Fails where the handler left the transaction aborted.
RELEASE SAVEPOINT headwater_handler
