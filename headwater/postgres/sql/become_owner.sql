-- What is made from here on belongs to the log's owner, as everything else of it does; until the end of the transaction. The name is a checked identifier.
SET LOCAL ROLE {owner};
