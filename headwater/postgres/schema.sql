-- The whole schema, as the migrations leave it. For reading; `headwater migrate` applies the migrations.
-- Written by `python tools/dump_schema.py`; a test compares it with the migrations.

CREATE SCHEMA headwater;

CREATE FUNCTION headwater.append_events(stream_name text, expected_version bigint, types text[], data jsonb[], metadata jsonb[] DEFAULT NULL::jsonb[], event_ids uuid[] DEFAULT NULL::uuid[], OUT version bigint, OUT global_position bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
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

CREATE FUNCTION headwater.append_lock_namespace() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT 18519::bigint $$;

CREATE FUNCTION headwater.check_new_events(stream_name text, types text[], data jsonb[], metadata jsonb[], event_ids uuid[]) RETURNS void
    LANGUAGE plpgsql STABLE
    AS $_$
DECLARE
    worst record;
BEGIN
    IF stream_name IS NULL OR char_length(stream_name) NOT BETWEEN 1 AND 500 OR stream_name ~ '[\x01-\x1f\x7f]' THEN
        RAISE EXCEPTION 'a stream name needs 1 to 500 characters and no control characters, this one has %', coalesce(char_length(stream_name), 0)
            USING ERRCODE = 'HW003';
    END IF;
    IF split_part(stream_name, '-', 1) !~ '^[A-Za-z0-9][A-Za-z0-9._]{0,199}$' THEN
        RAISE EXCEPTION 'the category % (what stands before the first dash) names a Kafka topic: use 1 to 200 letters, digits, dots or underscores',
            quote_literal(left(split_part(stream_name, '-', 1), 60))
            USING ERRCODE = 'HW003';
    END IF;
    IF coalesce(cardinality(types), 0) NOT BETWEEN 1 AND 1000 OR cardinality(types) IS DISTINCT FROM cardinality(data)
       OR cardinality(types) IS DISTINCT FROM cardinality(metadata) OR cardinality(types) IS DISTINCT FROM cardinality(event_ids)
    THEN
        RAISE EXCEPTION 'an append carries 1 to 1000 events, with as many data, metadata and ids as types' USING ERRCODE = 'HW003';
    END IF;
    SELECT bool_or(n.type IS NULL OR n.data IS NULL OR n.metadata IS NULL OR n.event_id IS NULL) AS has_null,
           bool_or(char_length(n.type) NOT BETWEEN 1 AND 200 OR n.type ~ '[\x01-\x1f\x7f]') AS has_bad_type,
           bool_or(jsonb_typeof(n.metadata) <> 'object' OR jsonb_path_exists(n.metadata, '$.* ? (@.type() != "string")')) AS has_bad_metadata,
           max(octet_length(n.data::text)) AS data_bytes,
           max(octet_length(n.metadata::text)) AS metadata_bytes
      INTO worst
      FROM unnest(types, data, metadata, event_ids) AS n(type, data, metadata, event_id);
    IF worst.has_null THEN
        RAISE EXCEPTION 'an event lacks its type, data, metadata or id' USING ERRCODE = 'HW003';
    ELSIF worst.has_bad_type THEN
        RAISE EXCEPTION 'an event type needs 1 to 200 characters and no control characters' USING ERRCODE = 'HW003';
    ELSIF worst.has_bad_metadata THEN
        RAISE EXCEPTION 'metadata must be a JSON object whose values are all text' USING ERRCODE = 'HW003';
    ELSIF worst.data_bytes > 1048576 THEN
        RAISE EXCEPTION 'an event takes % bytes as JSON; at most 1048576 are allowed: store large content elsewhere', worst.data_bytes
            USING ERRCODE = 'HW003';
    ELSIF worst.metadata_bytes > 16384
          AND (SELECT max((SELECT sum(octet_length(p.key) + octet_length(p.value)) FROM jsonb_each_text(m) AS p)) FROM unnest(metadata) AS m) > 16384
    THEN
        RAISE EXCEPTION 'the metadata of an event takes more than 16384 bytes' USING ERRCODE = 'HW003';
    END IF;
END
$_$;

CREATE FUNCTION headwater.check_stream_open(stream_id bigint) RETURNS void
    LANGUAGE plpgsql
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

CREATE FUNCTION headwater.close_stream(stream_name text, OUT version bigint, OUT closed_at timestamp with time zone) RETURNS SETOF record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

CREATE FUNCTION headwater.lock_stream(stream_name text) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    found_id bigint;
BEGIN
    SELECT s.stream_id INTO found_id FROM headwater.streams AS s WHERE s.stream_name = lock_stream.stream_name FOR NO KEY UPDATE;
    IF found_id IS NOT NULL THEN
        RETURN found_id;
    END IF;
    INSERT INTO headwater.streams AS s (stream_name) VALUES (lock_stream.stream_name)
        ON CONFLICT ON CONSTRAINT streams_stream_name_key DO NOTHING
        RETURNING s.stream_id INTO found_id;
    IF found_id IS NULL THEN
        SELECT s.stream_id INTO found_id FROM headwater.streams AS s WHERE s.stream_name = lock_stream.stream_name FOR NO KEY UPDATE;
    END IF;
    IF found_id IS NULL THEN
        RAISE EXCEPTION 'another transaction created the stream % after this one''s snapshot', quote_literal(lock_stream.stream_name)
            USING ERRCODE = '40001';
    END IF;
    RETURN found_id;
END
$$;

CREATE TABLE headwater.log_epochs (
    epoch bigint NOT NULL,
    log_id uuid NOT NULL,
    system_identifier bigint NOT NULL,
    timeline text NOT NULL,
    database_oid oid NOT NULL,
    began_after bigint NOT NULL,
    began_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE FUNCTION headwater.open_log() RETURNS SETOF headwater.log_epochs
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

CREATE FUNCTION headwater.read_horizon() RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    head   bigint;
    lowest bigint;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'the log was read on a standby, where appends in flight cannot be seen; read it on the primary'
            USING ERRCODE = 'HW004';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the log was read in a % transaction; read it in READ COMMITTED, or events would be missed', current_setting('transaction_isolation')
            USING ERRCODE = 'HW004';
    END IF;

    SELECT s.last_value - (NOT s.is_called)::int
      INTO head
      FROM headwater.global_position_seq AS s;

    -- Locks above the head are passed over one by one: taking the lowest first and comparing then would read too far.
    SELECT min(appends.position)
      INTO lowest
      FROM (SELECT ((locks.classid::bigint & 65535) << 32) | locks.objid::bigint AS position
              FROM pg_locks AS locks
             WHERE locks.locktype = 'advisory'
               AND locks.objsubid = 1
               AND locks.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
               AND locks.classid::bigint >> 16 = headwater.append_lock_namespace()) AS appends
     WHERE appends.position <= head;

    RETURN least(head, lowest);
END
$$;

CREATE FUNCTION headwater.take_append_lock() RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    this_transaction text := pg_current_xact_id()::text;
    last_drawn       bigint;
BEGIN
    IF current_setting('headwater.append_lock', true) = this_transaction THEN
        RETURN;
    END IF;
    SELECT s.last_value - (NOT s.is_called)::int
      INTO last_drawn
      FROM headwater.global_position_seq AS s;
    PERFORM pg_advisory_xact_lock_shared((headwater.append_lock_namespace() << 48) | last_drawn);
    PERFORM set_config('headwater.append_lock', this_transaction, true);
END
$$;

CREATE TABLE headwater.archived_events (
    global_position bigint NOT NULL,
    stream_id bigint NOT NULL,
    version bigint NOT NULL,
    type text NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    event_id uuid NOT NULL,
    recorded_at timestamp with time zone NOT NULL
);

CREATE TABLE headwater.events (
    global_position bigint NOT NULL,
    stream_id bigint NOT NULL,
    version bigint NOT NULL,
    type text NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    event_id uuid NOT NULL,
    recorded_at timestamp with time zone NOT NULL
);

CREATE VIEW headwater.all_events AS
 SELECT events.global_position,
    events.stream_id,
    events.version,
    events.type,
    events.data,
    events.metadata,
    events.event_id,
    events.recorded_at
   FROM headwater.events
UNION ALL
 SELECT archived.global_position,
    archived.stream_id,
    archived.version,
    archived.type,
    archived.data,
    archived.metadata,
    archived.event_id,
    archived.recorded_at
   FROM headwater.archived_events archived;

CREATE TABLE headwater.consumer_positions (
    group_name text NOT NULL COLLATE pg_catalog."C",
    topic text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    epoch bigint DEFAULT 1 NOT NULL,
    next_offset bigint DEFAULT 0 NOT NULL,
    marks jsonb DEFAULT '{}'::jsonb NOT NULL,
    last_offset bigint,
    last_log_id uuid,
    last_position text,
    claimed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT consumer_positions_epoch_positive CHECK ((epoch > 0)),
    CONSTRAINT consumer_positions_last_whole CHECK ((num_nulls(last_offset, last_log_id, last_position) = ANY (ARRAY[0, 3]))),
    CONSTRAINT consumer_positions_next_offset_range CHECK (((next_offset >= 0) AND ((last_offset IS NULL) OR (last_offset < next_offset))))
)
WITH (fillfactor='50');

CREATE TABLE headwater.dead_letters (
    dead_letter_id bigint NOT NULL,
    group_name text NOT NULL COLLATE pg_catalog."C",
    handler_name text,
    topic text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    log_id uuid,
    log_position text,
    event_id uuid,
    stream_name text,
    version bigint,
    event_type text,
    data text,
    metadata jsonb,
    recorded_at timestamp with time zone,
    raw jsonb,
    error_type text NOT NULL,
    error_message text NOT NULL,
    traceback text NOT NULL,
    attempts integer NOT NULL,
    first_failed_at timestamp with time zone NOT NULL,
    last_failed_at timestamp with time zone NOT NULL,
    stored_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    status text DEFAULT 'waiting'::text NOT NULL,
    retry_requested_at timestamp with time zone,
    settled_at timestamp with time zone,
    CONSTRAINT dead_letters_content_kept CHECK (((data IS NOT NULL) OR (raw IS NOT NULL))),
    CONSTRAINT dead_letters_retry_possible CHECK (((status <> ALL (ARRAY['retrying'::text, 'handled'::text])) OR (num_nulls(handler_name, event_id, data) = 0))),
    CONSTRAINT dead_letters_settled_at_known CHECK (((settled_at IS NOT NULL) = (status = ANY (ARRAY['handled'::text, 'skipped'::text])))),
    CONSTRAINT dead_letters_status_known CHECK ((status = ANY (ARRAY['waiting'::text, 'retrying'::text, 'handled'::text, 'skipped'::text])))
);

ALTER TABLE headwater.dead_letters ALTER COLUMN dead_letter_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headwater.dead_letters_dead_letter_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE SEQUENCE headwater.global_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE headwater.streams (
    stream_id bigint NOT NULL,
    stream_name text NOT NULL COLLATE pg_catalog."C",
    closed_at timestamp with time zone,
    archived_at timestamp with time zone,
    CONSTRAINT streams_archived_is_closed CHECK (((archived_at IS NULL) OR (closed_at IS NOT NULL))),
    CONSTRAINT streams_stream_name_length CHECK (((char_length(stream_name) >= 1) AND (char_length(stream_name) <= 500)))
);

CREATE VIEW headwater.log AS
 SELECT events.global_position,
    streams.stream_name,
    events.version,
    events.type,
    events.data,
    events.metadata,
    events.event_id,
    events.recorded_at
   FROM (headwater.all_events events
     JOIN headwater.streams USING (stream_id));

CREATE TABLE headwater.migrations (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE headwater.projections (
    name text NOT NULL COLLATE pg_catalog."C",
    role text NOT NULL COLLATE pg_catalog."C",
    schema_name text NOT NULL,
    shape text NOT NULL,
    fingerprint text NOT NULL,
    generation bigint DEFAULT 1 NOT NULL,
    epoch bigint DEFAULT 1 NOT NULL,
    global_position bigint DEFAULT 0 NOT NULL,
    event_id uuid,
    event_count bigint DEFAULT 0 NOT NULL,
    status text DEFAULT 'running'::text NOT NULL,
    error text,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT projections_event_id_known CHECK (((event_id IS NULL) = (global_position = 0))),
    CONSTRAINT projections_name_shape CHECK ((name ~ '^[a-z][a-z0-9_]{0,39}$'::text)),
    CONSTRAINT projections_role_known CHECK ((role = ANY (ARRAY['live'::text, 'next'::text]))),
    CONSTRAINT projections_status_known CHECK ((status = ANY (ARRAY['running'::text, 'failed'::text, 'diverged'::text])))
)
WITH (fillfactor='40');

CREATE TABLE headwater.relay_checkpoints (
    shard text NOT NULL,
    epoch bigint NOT NULL,
    global_position bigint NOT NULL,
    event_id uuid,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT relay_checkpoints_start CHECK (((global_position = 0) = (event_id IS NULL)))
)
WITH (fillfactor='50');

CREATE TABLE headwater.relay_leases (
    shard text NOT NULL,
    holder uuid NOT NULL,
    term bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT relay_leases_term_positive CHECK ((term > 0))
)
WITH (fillfactor='50');

CREATE TABLE headwater.relay_positions (
    topic text NOT NULL,
    partition_number integer NOT NULL,
    epoch bigint NOT NULL,
    global_position bigint NOT NULL,
    kafka_offset bigint NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE headwater.relay_topics (
    topic text NOT NULL,
    partition_count integer NOT NULL,
    first_relayed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT relay_topics_partition_count_positive CHECK ((partition_count > 0))
);

CREATE TABLE headwater.saga_deadlines (
    saga_type text NOT NULL COLLATE pg_catalog."C",
    saga_key text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    due_at timestamp with time zone NOT NULL,
    period_seconds double precision DEFAULT 0 NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    is_failed boolean DEFAULT false NOT NULL,
    error text,
    CONSTRAINT saga_deadlines_failed_with_error CHECK (((NOT is_failed) OR (error IS NOT NULL))),
    CONSTRAINT saga_deadlines_kind_known CHECK ((kind = ANY (ARRAY['said'::text, 'undo'::text, 'end'::text])))
);

CREATE TABLE headwater.saga_history (
    saga_type text NOT NULL COLLATE pg_catalog."C",
    saga_key text NOT NULL COLLATE pg_catalog."C",
    number integer NOT NULL,
    happened_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    detail text NOT NULL
);

CREATE TABLE headwater.sagas (
    saga_type text NOT NULL COLLATE pg_catalog."C",
    saga_key text NOT NULL COLLATE pg_catalog."C",
    phase text DEFAULT 'running'::text NOT NULL,
    status text DEFAULT 'running'::text NOT NULL,
    state jsonb NOT NULL,
    steps jsonb DEFAULT '[]'::jsonb NOT NULL,
    reason text,
    correlation_id text NOT NULL,
    cause_id uuid NOT NULL,
    history_count integer DEFAULT 0 NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT sagas_ended_at_known CHECK (((ended_at IS NOT NULL) = (phase = ANY (ARRAY['completed'::text, 'compensated'::text])))),
    CONSTRAINT sagas_phase_known CHECK ((phase = ANY (ARRAY['running'::text, 'compensating'::text, 'completed'::text, 'compensated'::text]))),
    CONSTRAINT sagas_status_known CHECK ((status = ANY (ARRAY['running'::text, 'compensating'::text, 'completed'::text, 'compensated'::text, 'stuck'::text])))
)
WITH (fillfactor='50');

ALTER TABLE headwater.streams ALTER COLUMN stream_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headwater.streams_stream_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY headwater.archived_events
    ADD CONSTRAINT archived_events_event_id_key UNIQUE (event_id);

ALTER TABLE ONLY headwater.archived_events
    ADD CONSTRAINT archived_events_pkey PRIMARY KEY (global_position);

ALTER TABLE ONLY headwater.archived_events
    ADD CONSTRAINT archived_events_stream_id_version_key UNIQUE (stream_id, version);

ALTER TABLE ONLY headwater.consumer_positions
    ADD CONSTRAINT consumer_positions_pkey PRIMARY KEY (group_name, topic, partition);

ALTER TABLE ONLY headwater.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (dead_letter_id);

ALTER TABLE ONLY headwater.events
    ADD CONSTRAINT events_event_id_key UNIQUE (event_id);

ALTER TABLE ONLY headwater.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (global_position);

ALTER TABLE ONLY headwater.events
    ADD CONSTRAINT events_stream_id_version_key UNIQUE (stream_id, version);

ALTER TABLE ONLY headwater.log_epochs
    ADD CONSTRAINT log_epochs_pkey PRIMARY KEY (epoch);

ALTER TABLE ONLY headwater.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (name);

ALTER TABLE ONLY headwater.projections
    ADD CONSTRAINT projections_pkey PRIMARY KEY (name, role);

ALTER TABLE ONLY headwater.relay_checkpoints
    ADD CONSTRAINT relay_checkpoints_pkey PRIMARY KEY (shard);

ALTER TABLE ONLY headwater.relay_leases
    ADD CONSTRAINT relay_leases_pkey PRIMARY KEY (shard);

ALTER TABLE ONLY headwater.relay_positions
    ADD CONSTRAINT relay_positions_pkey PRIMARY KEY (topic, partition_number);

ALTER TABLE ONLY headwater.relay_topics
    ADD CONSTRAINT relay_topics_pkey PRIMARY KEY (topic);

ALTER TABLE ONLY headwater.saga_deadlines
    ADD CONSTRAINT saga_deadlines_pkey PRIMARY KEY (saga_type, saga_key, kind, name);

ALTER TABLE ONLY headwater.saga_history
    ADD CONSTRAINT saga_history_pkey PRIMARY KEY (saga_type, saga_key, number);

ALTER TABLE ONLY headwater.sagas
    ADD CONSTRAINT sagas_pkey PRIMARY KEY (saga_type, saga_key);

ALTER TABLE ONLY headwater.streams
    ADD CONSTRAINT streams_pkey PRIMARY KEY (stream_id);

ALTER TABLE ONLY headwater.streams
    ADD CONSTRAINT streams_stream_name_key UNIQUE (stream_name);

CREATE INDEX dead_letters_group_name_idx ON headwater.dead_letters USING btree (group_name, dead_letter_id);

CREATE INDEX dead_letters_retrying_idx ON headwater.dead_letters USING btree (group_name, dead_letter_id) WHERE (status = 'retrying'::text);

CREATE INDEX saga_deadlines_due_at_idx ON headwater.saga_deadlines USING btree (due_at) WHERE (NOT is_failed);

CREATE INDEX sagas_status_idx ON headwater.sagas USING btree (status, started_at);

CREATE INDEX streams_to_archive_idx ON headwater.streams USING btree (stream_id) WHERE ((closed_at IS NOT NULL) AND (archived_at IS NULL));

ALTER TABLE ONLY headwater.saga_deadlines
    ADD CONSTRAINT saga_deadlines_saga_fkey FOREIGN KEY (saga_type, saga_key) REFERENCES headwater.sagas(saga_type, saga_key) ON DELETE CASCADE;

ALTER TABLE ONLY headwater.saga_history
    ADD CONSTRAINT saga_history_saga_fkey FOREIGN KEY (saga_type, saga_key) REFERENCES headwater.sagas(saga_type, saga_key) ON DELETE CASCADE;
