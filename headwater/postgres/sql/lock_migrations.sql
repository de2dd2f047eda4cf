-- Let one migrator work at a time; the key is 'headwater' in ASCII, folded to 63 bits. Held to the end of the transaction.
SELECT pg_advisory_xact_lock(7522525896805148018)
