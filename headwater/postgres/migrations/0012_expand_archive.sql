-- Streams that are closed for good, and their events in a table of their own. Why it looks like this: docs/decisions/0013-growing-old.md.

-- Set once each, under the row's lock, so rule 6 holds: appends never update a row here.
ALTER TABLE headwater.streams
    ADD COLUMN closed_at   timestamptz,
    ADD COLUMN archived_at timestamptz,
    ADD CONSTRAINT streams_archived_is_closed CHECK (archived_at IS NULL OR closed_at IS NOT NULL);

-- What can be archived: few, most of the time none.
CREATE INDEX streams_to_archive_idx ON headwater.streams (stream_id) WHERE closed_at IS NOT NULL AND archived_at IS NULL;

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

-- Refuses an append to a closed stream. Call it after the stream's lock was granted and after a repeated append was recognised by its ids.
-- VOLATILE, so that it sees what the lock waited for.
CREATE FUNCTION headwater.check_stream_open(stream_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    closed record;
BEGIN
    SELECT s.stream_name, s.closed_at
      INTO closed
      FROM headwater.streams AS s
     WHERE s.stream_id = check_stream_open.stream_id
       AND s.closed_at IS NOT NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'stream % was closed at % and takes no further events', quote_literal(closed.stream_name), closed.closed_at
            USING ERRCODE = 'HW010', DETAIL = jsonb_build_object('stream_name', closed.stream_name, 'closed_at', closed.closed_at)::text;
    END IF;
END
$$;

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

-- As in 0001, but the cut is looked for in the archive, too, and two openers with old snapshots fail with a conflict that can be repeated.
CREATE OR REPLACE FUNCTION headwater.open_log() RETURNS SETOF headwater.log_epochs
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    latest headwater.log_epochs;
    here   record;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'the log was opened on a standby; open it on the primary' USING ERRCODE = 'HW004';
    END IF;
    SELECT (pg_control_system()).system_identifier AS system_identifier,
           substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline,
           (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()) AS database_oid
      INTO here;
    SELECT * INTO latest FROM headwater.log_epochs ORDER BY epoch DESC LIMIT 1;
    IF latest.epoch IS NULL
       OR (latest.system_identifier, latest.timeline, latest.database_oid) IS DISTINCT FROM (here.system_identifier, here.timeline, here.database_oid)
    THEN
        LOCK TABLE headwater.log_epochs IN SHARE ROW EXCLUSIVE MODE;
        SELECT * INTO latest FROM headwater.log_epochs ORDER BY epoch DESC LIMIT 1;
        IF latest.epoch IS NULL
           OR (latest.system_identifier, latest.timeline, latest.database_oid) IS DISTINCT FROM (here.system_identifier, here.timeline, here.database_oid)
        THEN
            INSERT INTO headwater.log_epochs (epoch, log_id, system_identifier, timeline, database_oid, began_after)
            SELECT coalesce(latest.epoch, 0) + 1, coalesce(latest.log_id, gen_random_uuid()), here.system_identifier, here.timeline, here.database_oid,
                   CASE WHEN latest.epoch IS NULL THEN 0 ELSE (SELECT coalesce(max(e.global_position), 0) FROM headwater.all_events AS e) END
                ON CONFLICT ON CONSTRAINT log_epochs_pkey DO NOTHING;
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM headwater.log_epochs ORDER BY epoch;
END
$$;

-- As before, with two changes: ids are looked up in the archive, too, and a closed stream refuses what is no repetition.
CREATE OR REPLACE FUNCTION headwater.append_events(
    stream_name      text,
    expected_version bigint,
    types            text[],
    data             jsonb[],
    metadata         jsonb[] DEFAULT NULL,
    event_ids        uuid[]  DEFAULT NULL,
    OUT version         bigint,
    OUT global_position bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
DECLARE
    this_stream  bigint;
    was_stored   record;
    ids          uuid[]  := coalesce(event_ids, ARRAY(SELECT gen_random_uuid() FROM generate_series(1, cardinality(types))));
    metas        jsonb[] := coalesce(metadata, array_fill('{}'::jsonb, ARRAY[coalesce(cardinality(types), 0)]));
BEGIN
    PERFORM headwater.check_new_events(append_events.stream_name, types, data, metas, ids);

    -- An acknowledged event is a durable one. Not a SET clause on this function: that would be undone before the commit.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;

    this_stream := headwater.lock_stream(append_events.stream_name);

    -- Ids first, then versions, each in a statement that sees what the lock waited for.
    -- One id, the usual case, is probed by itself: that plan is kept, the one over many is made anew at every call.
    IF event_ids IS NOT NULL
       AND (cardinality(ids) > 1 OR EXISTS (SELECT FROM headwater.all_events AS e WHERE e.event_id = ids[1]))
    THEN
        SELECT count(*) AS event_count,
               max(e.version) AS last_version,
               max(e.global_position) AS last_position,
               max(e.version) - min(e.version) + 1 = count(*)
                   AND bool_and(e.stream_id = this_stream)
                   AND array_agg(e.event_id ORDER BY e.version) = ids AS is_same_append,
               min(e.event_id::text) AS some_id
          INTO was_stored
          FROM headwater.all_events AS e
         WHERE e.event_id = ANY (ids);
        IF was_stored.event_count > 0 THEN
            IF was_stored.is_same_append THEN
                version := was_stored.last_version;
                global_position := was_stored.last_position;
                RETURN;
            END IF;
            RAISE EXCEPTION 'the event id % is stored already, but not by this very append; give new ids, or repeat the first append exactly', was_stored.some_id
                USING ERRCODE = 'HW002', DETAIL = jsonb_build_object('event_id', was_stored.some_id)::text;
        END IF;
    END IF;

    PERFORM headwater.check_stream_open(this_stream);

    SELECT coalesce(max(e.version), 0) INTO version FROM headwater.events AS e WHERE e.stream_id = this_stream;
    IF version <> expected_version AND NOT (expected_version = -1 AND version > 0) THEN
        RAISE EXCEPTION 'stream % has % events, expected %', quote_literal(append_events.stream_name), version, expected_version
            USING ERRCODE = 'HW001',
                  DETAIL = jsonb_build_object(
                      'stream_name', append_events.stream_name,
                      'expected', CASE expected_version WHEN -1 THEN 'an existing stream' WHEN 0 THEN 'no stream' ELSE 'version ' || expected_version END,
                      'actual_version', version)::text;
    END IF;

    PERFORM headwater.take_append_lock();

    WITH appended AS (
        INSERT INTO headwater.events AS e (global_position, stream_id, version, type, data, metadata, event_id, recorded_at)
        SELECT nextval('headwater.global_position_seq'), this_stream, append_events.version + n.ordinal, n.type, n.data, n.metadata, n.event_id, clock_timestamp()
          FROM unnest(types, append_events.data, metas, ids) WITH ORDINALITY AS n(type, data, metadata, event_id, ordinal)
        RETURNING e.version, e.global_position
    )
    SELECT max(appended.version), max(appended.global_position)
      INTO version, global_position
      FROM appended;
END
$$;
