-- Refuse writes until the transaction ends.
SET TRANSACTION READ ONLY
