-- One registration at a time in this database, until the transaction ends: versions of a subject have no holes.
SELECT pg_advisory_xact_lock(hashtextextended('headwater.schemas', 0));
