-- Rows that only one of two tables has, as text. Schemas and table are checked or quoted identifiers.
-- $1 limit bigint. Returns side text ('stored' or 'expected'), row_text text. Reads both tables whole.
(SELECT 'stored' AS side, only_stored.row_text
   FROM (SELECT stored::text AS row_text FROM {stored} AS stored
         EXCEPT ALL
         SELECT expected::text AS row_text FROM {expected} AS expected) AS only_stored
  LIMIT $1)
UNION ALL
(SELECT 'expected' AS side, only_expected.row_text
   FROM (SELECT expected::text AS row_text FROM {expected} AS expected
         EXCEPT ALL
         SELECT stored::text AS row_text FROM {stored} AS stored) AS only_expected
  LIMIT $1)
