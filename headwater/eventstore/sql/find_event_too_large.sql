-- The first event of this stretch of the log that takes more than an event may, as PostgreSQL prints it.
-- $1 from_position bigint, $2 through_position bigint, $3 bytes_max bigint. Returns global_position bigint, data_bytes bigint, or nothing.
-- Takes no locks; relies on events_pkey.
SELECT global_position,
       octet_length(data::text) AS data_bytes
  FROM headwater.events
 WHERE global_position BETWEEN $1 AND $2
   AND octet_length(data::text) > $3
 ORDER BY global_position
 LIMIT 1
