-- Undo what one handler did, also when it left the transaction aborted. Releases the locks it took.
ROLLBACK TO SAVEPOINT headwater_handler
