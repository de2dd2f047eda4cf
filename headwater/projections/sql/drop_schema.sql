-- Remove a version's home with all that is in it. Waits for those who read its tables.
DROP SCHEMA IF EXISTS {schema} CASCADE
