-- How many events open streams have.
-- $1 stream_ids bigint[], locked before. Returns stream_id bigint, version bigint (0 for none). Takes no locks; relies on
-- events_stream_id_version_key.
SELECT streams.stream_id,
       (SELECT coalesce(max(events.version), 0) FROM headwater.events WHERE events.stream_id = streams.stream_id) AS version
  FROM unnest($1::bigint[]) AS streams(stream_id)
