-- How many rows a table has. Its name is quoted by the caller. Reads the table whole.
SELECT count(*)
  FROM {table}
