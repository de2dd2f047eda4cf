-- The usual appends in as few steps as there can be. Why: docs/decisions/0009-group-append.md.
-- They store what nothing stands in the way of, and leave the rest, whatever the reason, to append_group, which tells what became of it.

-- Whether a text may name a stream: one look instead of two.
CREATE OR REPLACE FUNCTION headwater.is_stream_name(name text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT name ~ '^[A-Za-z0-9][A-Za-z0-9._]*(-[^\x01-\x1f\x7f]*)?$' AND char_length(name) <= 500 AND strpos(name || '-', '-') <= 201
$$;

-- is_event for an event whose type is known to be fine, and whose metadata is no value of a table, which could be compressed: 2,000 bytes of it are
-- never printed as more than 16,384. STABLE, as pg_column_size is, or it would not be inlined.
CREATE FUNCTION headwater.is_event_of_good_type(data jsonb, metadata jsonb) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT octet_length(data::text) <= 1048576 AND jsonb_typeof(metadata) = 'object' AND NOT jsonb_path_exists(metadata, '$.* ? (@.type() != "string")')
       AND (pg_column_size(metadata) <= 2000 OR octet_length(metadata::text) <= 16384)
$$;

-- Says of an archived event what the unique constraint says of one that is not archived.
CREATE FUNCTION headwater.raise_repeated(event_id uuid) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    RAISE unique_violation USING MESSAGE = format('the event id %s is in the archive', event_id);
END
$$;

-- Adds events to the ends of streams, many appends in one call, in a transaction of its own.
-- A part is what one append adds to one stream; each stream stands once. Events come part by part, without tags.
--   expected_versions  NULL: any; -1: the stream must exist; 0: it must not; n: it must have exactly n events
--   event_counts       NULL: each part has one event
--   distinct_types     the types once more, each once
-- Returns for each part the version of its last event, and the position of each event of the parts stored, in order. NULL stands for a part that was not
-- stored: its expectation fails, its stream is closed or somebody else's, it was stored before, or something here was, and then nothing is stored.
-- Raises HW003 (refused input), for the whole call.
-- Locks: the places of types (shared), the rows of the streams that exist, the append lock (shared), the names of the streams to be created.
-- A version that is older than its row's lock meets a unique constraint, and so does an id that is stored already.
CREATE FUNCTION headwater.try_append_many(
    stream_names      text[],
    expected_versions bigint[],
    event_counts      bigint[],
    distinct_types    text[],
    types             text[],
    data              jsonb[],
    metadata          jsonb[],
    event_ids         uuid[],
    OUT versions  bigint[],
    OUT positions bigint[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    type           text;
    stream_ids     bigint[];
    missing        text[];
    created        bigint[];
    event_versions bigint[];
BEGIN
    IF (types <@ distinct_types AND current_setting('synchronous_commit') <> 'off'
        AND pg_try_advisory_xact_lock_shared(headwater.append_lock_namespace()::integer, headwater.scope_of('all', ''))) IS NOT TRUE
    THEN
        RETURN;
    END IF;
    FOREACH type IN ARRAY distinct_types LOOP
        IF (char_length(type) BETWEEN 1 AND 200 AND type !~ '[\x01-\x1f\x7f]'
            AND pg_try_advisory_xact_lock_shared(headwater.append_lock_namespace()::integer, headwater.scope_of('type', type))) IS NOT TRUE
        THEN
            RETURN;
        END IF;
    END LOOP;

    IF 0 = ALL (expected_versions) THEN
        versions := coalesce(event_counts, array_fill(1::bigint, ARRAY[cardinality(stream_names)]));
        missing := stream_names;
    ELSE
        SELECT array_agg(s.stream_id ORDER BY n.ordinal),
               array_agg(CASE WHEN s.stream_id IS NULL THEN CASE WHEN coalesce(n.expected, 0) = 0 THEN coalesce(n.event_count, 1) END
                              WHEN s.closed_at IS NULL AND (n.expected = s.version OR n.expected IS NULL OR n.expected = -1 AND s.version > 0)
                              THEN s.version + coalesce(n.event_count, 1) END
                         ORDER BY n.ordinal),
               array_agg(n.stream_name ORDER BY n.ordinal) FILTER (WHERE s.stream_id IS NULL AND coalesce(n.expected, 0) = 0)
          INTO stream_ids, versions, missing
          FROM unnest(stream_names, expected_versions, event_counts) WITH ORDINALITY AS n(stream_name, expected, event_count, ordinal)
          LEFT JOIN LATERAL (
                   SELECT s.stream_id, s.closed_at, (SELECT coalesce(max(e.version), 0) FROM headwater.events AS e WHERE e.stream_id = s.stream_id) AS version
                     FROM headwater.streams AS s
                    WHERE s.stream_name = n.stream_name
                      FOR NO KEY UPDATE SKIP LOCKED
               ) AS s ON true;
    END IF;

    BEGIN
        PERFORM pg_advisory_xact_lock_shared((headwater.append_lock_namespace() << 48) | coalesce(pg_sequence_last_value('headwater.global_position_seq'), 0));
        IF missing IS NOT NULL THEN
            WITH created AS (
                INSERT INTO headwater.streams AS s (stream_name)
                SELECT m.name FROM unnest(missing) AS m(name) WHERE headwater.is_stream_name(m.name)
                RETURNING s.stream_id
            )
            SELECT array_agg(c.stream_id ORDER BY c.stream_id)
              INTO created
              FROM created AS c;
            IF cardinality(created) IS DISTINCT FROM cardinality(missing) THEN
                RAISE unique_violation;  -- a name is refused: append_group says why
            ELSIF cardinality(created) = cardinality(stream_names) THEN
                stream_ids := created;
            ELSE
                SELECT array_agg(CASE WHEN n.is_missing THEN created[n.rank] ELSE n.stream_id END ORDER BY n.ordinal)
                  INTO stream_ids
                  FROM (SELECT m.stream_id, m.ordinal, m.stream_id IS NULL AND m.version IS NOT NULL AS is_missing,
                               count(*) FILTER (WHERE m.stream_id IS NULL AND m.version IS NOT NULL) OVER (ORDER BY m.ordinal) AS rank
                          FROM unnest(stream_ids, versions) WITH ORDINALITY AS m(stream_id, version, ordinal)) AS n;
            END IF;
        END IF;

        event_versions := versions;
        IF event_counts IS NOT NULL THEN
            SELECT array_agg(n.stream_id ORDER BY n.ordinal, k.number), array_agg(n.version - n.event_count + k.number ORDER BY n.ordinal, k.number)
              INTO stream_ids, event_versions
              FROM unnest(stream_ids, versions, event_counts) WITH ORDINALITY AS n(stream_id, version, event_count, ordinal),
                   generate_series(1, n.event_count) AS k(number);
        END IF;
        IF cardinality(event_versions) IS DISTINCT FROM cardinality(types) THEN
            RAISE unique_violation;  -- append_group says what is wrong with the counts
        END IF;

        WITH appended AS (
            INSERT INTO headwater.events AS e (global_position, stream_id, version, type, data, metadata, event_id, recorded_at)
            SELECT nextval('headwater.global_position_seq'), n.stream_id, n.version, n.type, n.data, n.metadata, n.event_id, clock_timestamp()
              FROM unnest(stream_ids, event_versions, types, try_append_many.data, try_append_many.metadata, event_ids)
                   AS n(stream_id, version, type, data, metadata, event_id)
             WHERE n.version IS NOT NULL
               AND CASE WHEN headwater.is_event_of_good_type(n.data, n.metadata) AND n.event_id IS NOT NULL THEN true
                        ELSE headwater.check_event(n.type, n.data, n.metadata, n.event_id) END
               -- Looked for now that streams are locked, so that whoever archives waits for this transaction.
               AND CASE WHEN NOT EXISTS (SELECT FROM headwater.archived_events) THEN true
                        WHEN NOT EXISTS (SELECT FROM headwater.archived_events AS a WHERE a.event_id = n.event_id) THEN true
                        ELSE headwater.raise_repeated(n.event_id) END
            RETURNING e.global_position
        )
        SELECT array_agg(appended.global_position ORDER BY appended.global_position)
          INTO positions
          FROM appended;
    EXCEPTION WHEN unique_violation OR lock_not_available THEN
        versions := NULL;
        positions := NULL;
    END;
END
$$;

-- try_append_many for one event: what a lone caller waits for. Returns its version and position; NULL where it was not stored.
-- Raises 23505 and 55P03 where try_append_many says NULL, because a lone caller need not be protected from others.
-- How it is planned is for the session to set (prefer_indexes.sql): a SET clause for each setting would cost every call.
CREATE FUNCTION headwater.try_append_one(stream_name text, expected_version bigint, type text, data jsonb, metadata jsonb, event_id uuid) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms'
AS $$
DECLARE
    this_stream     bigint;
    version         bigint := 0;
    global_position bigint;
BEGIN
    IF (headwater.is_event(try_append_one.type, try_append_one.data, try_append_one.metadata) AND try_append_one.event_id IS NOT NULL
        AND current_setting('synchronous_commit') <> 'off'
        AND pg_try_advisory_xact_lock_shared(headwater.append_lock_namespace()::integer, headwater.scope_of('all', ''))
        AND pg_try_advisory_xact_lock_shared(headwater.append_lock_namespace()::integer, headwater.scope_of('type', try_append_one.type))) IS NOT TRUE
    THEN
        RETURN NULL;
    END IF;
    IF expected_version = 0 THEN
        INSERT INTO headwater.streams AS s (stream_name)
        SELECT try_append_one.stream_name
         WHERE headwater.is_stream_name(try_append_one.stream_name)
           AND NOT EXISTS (SELECT FROM headwater.archived_events AS e WHERE e.event_id = try_append_one.event_id)
            ON CONFLICT ON CONSTRAINT streams_stream_name_key DO NOTHING
        RETURNING s.stream_id INTO this_stream;
    ELSE
        SELECT s.stream_id, (SELECT coalesce(max(e.version), 0) FROM headwater.events AS e WHERE e.stream_id = s.stream_id)
          INTO this_stream, version
          FROM headwater.streams AS s
         WHERE s.stream_name = try_append_one.stream_name
           AND s.closed_at IS NULL
           AND NOT EXISTS (SELECT FROM headwater.events AS e WHERE e.event_id = try_append_one.event_id)
           AND NOT EXISTS (SELECT FROM headwater.archived_events AS e WHERE e.event_id = try_append_one.event_id)
           FOR NO KEY UPDATE SKIP LOCKED;
    END IF;
    IF this_stream IS NULL OR NOT (expected_version = version OR expected_version IS NULL OR expected_version = -1 AND version > 0) THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock_shared((headwater.append_lock_namespace() << 48) | coalesce(pg_sequence_last_value('headwater.global_position_seq'), 0));
    INSERT INTO headwater.events AS e (global_position, stream_id, version, type, data, metadata, event_id, recorded_at)
    VALUES (nextval('headwater.global_position_seq'), this_stream, version + 1, try_append_one.type, try_append_one.data, try_append_one.metadata,
            try_append_one.event_id, clock_timestamp())
    RETURNING e.global_position INTO global_position;
    RETURN ARRAY[version + 1, global_position];
END
$$;
