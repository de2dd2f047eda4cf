-- Streams that are closed for good, and their events in a table of their own. Why it looks like this: docs/decisions/0013-growing-old.md.

-- Set once each, under the row's lock, so rule 6 holds: appends never update a row here.
ALTER TABLE headwater.streams
    ADD COLUMN closed_at   timestamptz,
    ADD COLUMN archived_at timestamptz,
    ADD CONSTRAINT streams_archived_is_closed CHECK (archived_at IS NULL OR closed_at IS NOT NULL);

-- What can be archived: few, most of the time none.
CREATE INDEX streams_to_archive_idx ON headwater.streams (stream_id) WHERE closed_at IS NOT NULL AND archived_at IS NULL;

-- What an append looks into before it adds to a stream: empty, most of the time.
CREATE INDEX streams_closed_idx ON headwater.streams (stream_id) WHERE closed_at IS NOT NULL;

-- Events of closed streams, at their old positions and versions. No constraint spans this table and headwater.events (rule 12): appends look up
-- event ids in both, and a closed stream gets no further version.
CREATE TABLE headwater.archived_events (
    global_position bigint      NOT NULL CONSTRAINT archived_events_pkey PRIMARY KEY,
    stream_id       bigint      NOT NULL,
    version         bigint      NOT NULL,
    type            text        NOT NULL,
    data            jsonb       NOT NULL,
    metadata        jsonb       NOT NULL,
    event_id        uuid        NOT NULL,
    recorded_at     timestamptz NOT NULL,
    CONSTRAINT archived_events_stream_id_version_key UNIQUE (stream_id, version),
    CONSTRAINT archived_events_event_id_key UNIQUE (event_id)
);

-- The whole log. An event moves in one statement, so whoever reads both tables in one statement sees it exactly once.
CREATE VIEW headwater.all_events AS
SELECT events.global_position, events.stream_id, events.version, events.type, events.data, events.metadata, events.event_id, events.recorded_at
  FROM headwater.events
 UNION ALL
SELECT archived.global_position, archived.stream_id, archived.version, archived.type, archived.data, archived.metadata, archived.event_id, archived.recorded_at
  FROM headwater.archived_events AS archived;

CREATE OR REPLACE VIEW headwater.log AS
SELECT events.global_position, streams.stream_name, events.version, events.type, events.data, events.metadata, events.event_id, events.recorded_at
  FROM headwater.all_events AS events
  JOIN headwater.streams USING (stream_id);

-- Closes a stream for good; returns no row for one that does not exist. Waits for appends to the stream that are in flight. A second call
-- changes nothing and answers with the first moment.
CREATE FUNCTION headwater.close_stream(stream_name text, OUT version bigint, OUT closed_at timestamptz) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    this_stream bigint;
BEGIN
    SELECT s.stream_id, s.closed_at
      INTO this_stream, closed_at
      FROM headwater.streams AS s
     WHERE s.stream_name = close_stream.stream_name
       FOR NO KEY UPDATE;
    IF this_stream IS NULL THEN
        RETURN;
    END IF;
    SELECT max(e.version) INTO version FROM headwater.all_events AS e WHERE e.stream_id = this_stream;
    IF version IS NULL THEN
        RETURN;
    END IF;
    IF closed_at IS NULL THEN
        closed_at := clock_timestamp();
        UPDATE headwater.streams AS s SET closed_at = close_stream.closed_at WHERE s.stream_id = this_stream;
    END IF;
    RETURN NEXT;
END
$$;

