-- Give a version's home another name; its tables are not touched.
ALTER SCHEMA {schema} RENAME TO {new_schema}
