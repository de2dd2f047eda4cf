-- Many appends in one call, appends to several streams, tags, and appends under a condition. Why: docs/decisions/0009-group-append.md.
-- The function of one append becomes a case of the one for many, so that there is one way in.

-- What a conditional append may ask for beside types: the course and the student of a booking.
CREATE TABLE headwater.event_tags (
    tag             text   NOT NULL COLLATE "C",
    global_position bigint NOT NULL,
    CONSTRAINT event_tags_pkey PRIMARY KEY (tag, global_position),
    CONSTRAINT event_tags_tag_length CHECK (char_length(tag) BETWEEN 1 AND 200)
);

-- For whoever reads events and wants their tags, too: the export.
CREATE INDEX event_tags_global_position_idx ON headwater.event_tags (global_position);

DROP FUNCTION headwater.append_events(text, bigint, text[], jsonb[], jsonb[], uuid[]);
DROP FUNCTION headwater.check_new_events(text, text[], jsonb[], jsonb[], uuid[]);
DROP FUNCTION headwater.lock_stream(text);

-- Types and tags share 1,024 places that can be locked, so that an append of any size takes a bounded number of locks. Two that share one
-- by accident wait for each other; nobody is refused for it.
CREATE FUNCTION headwater.scope_of(kind text, value text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT hashtext(kind || ':' || value) & 1023 $$;

-- Refuses names and counts that are wrong, whichever driver sends them.
CREATE FUNCTION headwater.check_parts(
    stream_names text[], part_units integer[], part_streams integer[], expected_versions bigint[], event_counts integer[],
    types text[], data jsonb[], metadata jsonb[], event_ids uuid[]
) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    part_count  integer := cardinality(part_streams);
    event_count bigint  := coalesce(cardinality(types), 0);
    bad_name    text;
BEGIN
    IF part_count IS DISTINCT FROM cardinality(event_counts) OR part_count IS DISTINCT FROM cardinality(part_units)
       OR part_count IS DISTINCT FROM cardinality(expected_versions)
       OR event_count IS DISTINCT FROM (SELECT sum(CASE WHEN c.event_count BETWEEN 1 AND 1000 THEN c.event_count END) * (count(c.event_count) = part_count)::int
                                          FROM unnest(event_counts) AS c(event_count))
       OR event_count IS DISTINCT FROM cardinality(data) OR event_count IS DISTINCT FROM cardinality(metadata)
       OR event_count IS DISTINCT FROM cardinality(event_ids)
    THEN
        RAISE EXCEPTION 'an append carries 1 to 1000 events, with as many data, metadata and ids as types' USING ERRCODE = 'HW003';
    END IF;
    SELECT coalesce(n.name, '')
      INTO bad_name
      FROM unnest(stream_names) AS n(name)
     WHERE headwater.is_stream_name(n.name) IS NOT TRUE
     LIMIT 1;
    IF char_length(bad_name) NOT BETWEEN 1 AND 500 OR bad_name ~ '[\x01-\x1f\x7f]' THEN
        RAISE EXCEPTION 'a stream name needs 1 to 500 characters and no control characters, this one has %', char_length(bad_name)
            USING ERRCODE = 'HW003';
    ELSIF bad_name IS NOT NULL THEN
        RAISE EXCEPTION 'the category % (what stands before the first dash) names a Kafka topic: use 1 to 200 letters, digits, dots or underscores',
            quote_literal(left(split_part(bad_name, '-', 1), 60))
            USING ERRCODE = 'HW003';
    END IF;
END
$$;

-- Refuses what the log, PostgreSQL or Kafka's headers could not carry. The relay never skips, so it must be possible to relay whatever was let in.
-- Asked for events that is_event does not vouch for; true when there is nothing wrong with them after all.
CREATE FUNCTION headwater.check_event(type text, data jsonb, metadata jsonb, event_id uuid) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF type IS NULL OR data IS NULL OR metadata IS NULL OR event_id IS NULL THEN
        RAISE EXCEPTION 'an event lacks its type, data, metadata or id' USING ERRCODE = 'HW003';
    ELSIF char_length(type) NOT BETWEEN 1 AND 200 OR type ~ '[\x01-\x1f\x7f]' THEN
        RAISE EXCEPTION 'an event type needs 1 to 200 characters and no control characters' USING ERRCODE = 'HW003';
    ELSIF jsonb_typeof(metadata) <> 'object' OR jsonb_path_exists(metadata, '$.* ? (@.type() != "string")') THEN
        RAISE EXCEPTION 'metadata must be a JSON object whose values are all text' USING ERRCODE = 'HW003';
    ELSIF octet_length(data::text) > 1048576 THEN
        RAISE EXCEPTION 'an event takes % bytes as JSON; at most 1048576 are allowed: store large content elsewhere', octet_length(data::text)
            USING ERRCODE = 'HW003';
    ELSIF (SELECT sum(octet_length(p.key) + octet_length(p.value)) FROM jsonb_each_text(metadata) AS p) > 16384 THEN
        RAISE EXCEPTION 'the metadata of an event takes more than 16384 bytes' USING ERRCODE = 'HW003';
    END IF;
    RETURN true;
END
$$;

-- Whether a text may name a stream. Bounded repetitions, {1,200}, would cost twenty times what the length by itself does.
CREATE FUNCTION headwater.is_stream_name(name text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT char_length(name) BETWEEN 1 AND 500 AND name !~ '[\x01-\x1f\x7f]'
       AND name ~ '^[A-Za-z0-9][A-Za-z0-9._]*(-|$)' AND char_length(split_part(name, '-', 1)) <= 200
$$;

-- Whether an event is surely fine; NULL or false ask for a closer look.
CREATE FUNCTION headwater.is_event(type text, data jsonb, metadata jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT char_length(type) BETWEEN 1 AND 200 AND type !~ '[\x01-\x1f\x7f]' AND octet_length(data::text) <= 1048576
       AND jsonb_typeof(metadata) = 'object' AND NOT jsonb_path_exists(metadata, '$.* ? (@.type() != "string")')
       AND octet_length(metadata::text) <= 16384
$$;

-- Takes, shared, the locks of everything that a conditional append could ask for of these events. Returns the places that somebody holds alone,
-- when this call may not wait for them; a call that waits goes in order, so that two of them cannot wait for each other.
CREATE FUNCTION headwater.share_scopes(types text[], tags text[], may_wait boolean) RETURNS integer[]
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    refused integer[];
BEGIN
    SELECT array_agg(scopes.scope)
      INTO refused
      FROM (SELECT headwater.scope_of('type', t.type) AS scope FROM unnest(types) AS t(type)
             UNION SELECT headwater.scope_of('tag', t.tag) FROM unnest(tags) AS t(tag)
             UNION SELECT headwater.scope_of('all', '')
             ORDER BY scope) AS scopes
     WHERE NOT CASE
               WHEN may_wait THEN pg_advisory_xact_lock_shared(headwater.append_lock_namespace()::integer, scopes.scope) IS NOT NULL
               ELSE pg_try_advisory_xact_lock_shared(headwater.append_lock_namespace()::integer, scopes.scope)
               END;
    RETURN refused;
END
$$;

-- The streams' ids, with their rows locked to the end of the transaction; missing ones are created. NULL stands for one that somebody else's open
-- transaction holds, when this call may not wait for it.
-- Names come in order, so that two who wait cannot wait for each other.
CREATE FUNCTION headwater.lock_streams(stream_names text[], may_wait boolean) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    found_ids bigint[];
    missing   text[];
    name      text;
BEGIN
    IF may_wait THEN
        SELECT array_agg((SELECT s.stream_id FROM headwater.streams AS s WHERE s.stream_name = n.name FOR NO KEY UPDATE) ORDER BY n.ordinal)
          INTO found_ids
          FROM unnest(stream_names) WITH ORDINALITY AS n(name, ordinal);
    ELSE
        SELECT array_agg((SELECT s.stream_id FROM headwater.streams AS s WHERE s.stream_name = n.name FOR NO KEY UPDATE SKIP LOCKED) ORDER BY n.ordinal)
          INTO found_ids
          FROM unnest(stream_names) WITH ORDINALITY AS n(name, ordinal);
    END IF;
    IF array_position(found_ids, NULL) IS NULL THEN
        RETURN found_ids;
    END IF;

    -- What exists and was not locked is somebody else's now; the rest is new.
    SELECT array_agg(n.name ORDER BY n.ordinal)
      INTO missing
      FROM unnest(stream_names, found_ids) WITH ORDINALITY AS n(name, stream_id, ordinal)
     WHERE n.stream_id IS NULL
       AND NOT EXISTS (SELECT FROM headwater.streams AS s WHERE s.stream_name = n.name);
    IF may_wait THEN
        found_ids := headwater.create_streams(stream_names, found_ids, missing);
        IF array_position(found_ids, NULL) IS NOT NULL THEN
            -- Created by others since the first look: lock what they made.
            SELECT array_agg(coalesce(n.stream_id, (SELECT s.stream_id FROM headwater.streams AS s WHERE s.stream_name = n.name FOR NO KEY UPDATE)) ORDER BY n.ordinal)
              INTO found_ids
              FROM unnest(stream_names, found_ids) WITH ORDINALITY AS n(name, stream_id, ordinal);
        END IF;
        IF array_position(found_ids, NULL) IS NOT NULL THEN
            RAISE EXCEPTION 'another transaction created the stream % after this one''s snapshot', quote_literal(stream_names[array_position(found_ids, NULL)])
                USING ERRCODE = '40001';
        END IF;
    ELSIF missing IS NOT NULL THEN
        BEGIN
            found_ids := headwater.create_streams(stream_names, found_ids, missing);
        EXCEPTION WHEN lock_not_available THEN
            -- Somebody else is creating one of them, and keeps its transaction open: find out which, and go on without it.
            FOREACH name IN ARRAY missing LOOP
                BEGIN
                    found_ids := headwater.create_streams(stream_names, found_ids, ARRAY[name]);
                EXCEPTION WHEN lock_not_available THEN
                    NULL;
                END;
            END LOOP;
        END;
    END IF;
    RETURN found_ids;
END
$$;

-- Creates streams and puts their ids in their places. Two creators of one stream meet in the unique index; the later one gets nothing.
CREATE FUNCTION headwater.create_streams(stream_names text[], found_ids bigint[], missing text[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    created record;
BEGIN
    FOR created IN
        INSERT INTO headwater.streams AS s (stream_name)
        SELECT m.name FROM unnest(missing) AS m(name)
            ON CONFLICT ON CONSTRAINT streams_stream_name_key DO NOTHING
        RETURNING s.stream_name, s.stream_id
    LOOP
        found_ids[array_position(stream_names, created.stream_name)] := created.stream_id;
    END LOOP;
    RETURN found_ids;
END
$$;

-- What became of an append whose ids are stored already: the same append again, or a mistake.
CREATE FUNCTION headwater.find_repeated(this_stream bigint, ids uuid[], OUT outcome text, OUT version bigint, OUT global_position bigint, OUT found_id uuid)
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    was_stored record;
BEGIN
    SELECT count(*) AS event_count,
           max(e.version) AS last_version,
           max(e.global_position) AS last_position,
           max(e.version) - min(e.version) + 1 = count(*)
               AND bool_and(e.stream_id = this_stream)
               AND array_agg(e.event_id ORDER BY e.version) = ids AS is_same_append,
           min(e.event_id::text)::uuid AS some_id
      INTO was_stored
      FROM headwater.all_events AS e
     WHERE e.event_id = ANY (ids);
    IF was_stored.event_count = 0 THEN
        RETURN;
    END IF;
    outcome := CASE WHEN was_stored.is_same_append THEN 'repeated' ELSE 'duplicate' END;
    version := was_stored.last_version;
    global_position := was_stored.last_position;
    found_id := was_stored.some_id;
END
$$;

-- Adds events to the ends of streams: many appends in one call, each with its own outcome, inside the caller's transaction.
-- A part is what one append adds to one stream; parts of one unit are stored together or not at all. Events come part by part.
--   stream_names       each once, in order (COLLATE "C")
--   part_units         the unit of each part, ascending; part_streams: its place in stream_names
--   expected_versions  NULL: any; -1: the stream must exist; 0: it must not; n: it must have exactly n events
--   tag_events, tags   the tags of the events, each with its event's place; NULL for none
--   may_wait           false: what somebody else's open transaction holds is left out as `blocked` rather than waited for
-- Returns for each part its outcome, the version and position of its last event (of a conflict: the version found; of a closed stream: when that was,
-- in microseconds since 1970, as its position), and of a duplicate the id.
--   stored, repeated (stored before, by this very append), conflict, duplicate, closed, blocked, withdrawn (another part of its unit failed)
-- Raises HW003 (refused input), for the whole call; 23505 on events_event_id_key for ids that stand twice in it.
-- Locks: the places of types and tags (shared), the streams' rows in order of name, then the shared append lock.
-- For the functions below alone, which set how it is planned.
CREATE FUNCTION headwater.append_parts(
    stream_names      text[],
    part_units        integer[],
    part_streams      integer[],
    expected_versions bigint[],
    event_counts      integer[],
    types             text[],
    data              jsonb[],
    metadata          jsonb[],
    event_ids         uuid[],
    tag_events        integer[],
    tags              text[],
    may_wait          boolean,
    OUT outcomes  text[],
    OUT versions  bigint[],
    OUT positions bigint[],
    OUT found_ids uuid[]
)
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    part_count      integer := cardinality(part_units);
    stream_ids      bigint[];
    stream_versions bigint[];
    refused_scopes  integer[];
    event_streams   bigint[];
    event_versions  bigint[];
    event_ranks     integer[];
    drawn           bigint[];
    accepted        integer := 0;
    first_event     integer := 1;
    next_event      integer;
    first_part      integer := 1;
    last_part       integer;
    is_accepted     boolean;
    has_repeated    boolean;
    has_closed      boolean;
    closed_at       timestamptz;
    repeated_count  integer;
    this_stream     integer;
    repeated        record;
BEGIN
    PERFORM headwater.check_parts(stream_names, part_units, part_streams, expected_versions, event_counts, types, data, metadata, event_ids);

    -- An acknowledged event is a durable one. Not a SET clause on this function: that would be undone before the commit.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;

    outcomes  := array_fill(NULL::text, ARRAY[part_count]);
    versions  := array_fill(NULL::bigint, ARRAY[part_count]);
    positions := versions;
    found_ids := array_fill(NULL::uuid, ARRAY[part_count]);
    event_streams  := array_fill(NULL::bigint, ARRAY[cardinality(types)]);
    event_versions := event_streams;
    event_ranks    := array_fill(NULL::integer, ARRAY[cardinality(types)]);
    refused_scopes := headwater.share_scopes(types, tags, may_wait);
    stream_ids := headwater.lock_streams(stream_names, may_wait);

    -- A statement that sees what the locks waited for.
    SELECT EXISTS (SELECT FROM unnest(event_ids) AS i(event_id) JOIN headwater.events AS e ON e.event_id = i.event_id)
               OR EXISTS (SELECT FROM headwater.archived_events)
                  AND EXISTS (SELECT FROM unnest(event_ids) AS i(event_id) JOIN headwater.archived_events AS e ON e.event_id = i.event_id),
           EXISTS (SELECT FROM unnest(stream_ids) AS i(stream_id) JOIN headwater.streams AS s ON s.stream_id = i.stream_id AND s.closed_at IS NOT NULL),
           array_agg((SELECT coalesce(max(e.version), 0) FROM headwater.events AS e WHERE e.stream_id = n.stream_id) ORDER BY n.ordinal)
      INTO has_repeated, has_closed, stream_versions
      FROM unnest(stream_ids) WITH ORDINALITY AS n(stream_id, ordinal);

    WHILE first_part <= part_count LOOP
        last_part := first_part;
        WHILE last_part < part_count AND part_units[last_part + 1] = part_units[first_part] LOOP
            last_part := last_part + 1;
        END LOOP;

        -- Look at every part of the unit before any is accepted.
        is_accepted := true;
        repeated_count := 0;
        next_event := first_event;
        FOR part IN first_part..last_part LOOP
            this_stream := part_streams[part];
            IF stream_ids[this_stream] IS NULL THEN
                outcomes[part] := 'blocked';
            ELSIF refused_scopes IS NOT NULL
                  AND headwater.meets_scopes(refused_scopes, types, tag_events, tags, next_event, next_event + event_counts[part] - 1)
            THEN
                outcomes[part] := 'blocked';
            ELSE
                IF has_repeated THEN
                    repeated := headwater.find_repeated(stream_ids[this_stream], event_ids[next_event:next_event + event_counts[part] - 1]);
                    IF repeated.outcome IS NOT NULL THEN
                        repeated_count := repeated_count + (repeated.outcome = 'repeated')::integer;
                        outcomes[part] := repeated.outcome;
                        versions[part] := repeated.version;
                        positions[part] := repeated.global_position;
                        found_ids[part] := repeated.found_id;
                    END IF;
                END IF;
                IF outcomes[part] IS NULL AND has_closed THEN
                    SELECT s.closed_at INTO closed_at FROM headwater.streams AS s WHERE s.stream_id = stream_ids[this_stream];
                    IF closed_at IS NOT NULL THEN
                        outcomes[part] := 'closed';
                        positions[part] := extract(epoch FROM closed_at) * 1000000;
                    END IF;
                END IF;
                IF outcomes[part] IS NULL AND stream_versions[this_stream] <> expected_versions[part]
                   AND NOT (expected_versions[part] = -1 AND stream_versions[this_stream] > 0)
                THEN
                    outcomes[part] := 'conflict';
                    versions[part] := stream_versions[this_stream];
                END IF;
            END IF;
            is_accepted := is_accepted AND outcomes[part] IS NULL;
            next_event := next_event + event_counts[part];
        END LOOP;

        IF NOT is_accepted THEN
            -- A unit is a repetition as a whole, or something in it is stored that should not be.
            FOR part IN first_part..last_part LOOP
                IF outcomes[part] = 'repeated' AND repeated_count <= last_part - first_part THEN
                    outcomes[part] := 'duplicate';
                END IF;
                outcomes[part] := coalesce(outcomes[part], 'withdrawn');
            END LOOP;
        ELSE
            FOR part IN first_part..last_part LOOP
                this_stream := part_streams[part];
                FOR event IN first_event..first_event + event_counts[part] - 1 LOOP
                    accepted := accepted + 1;
                    event_streams[event] := stream_ids[this_stream];
                    stream_versions[this_stream] := stream_versions[this_stream] + 1;
                    event_versions[event] := stream_versions[this_stream];
                    event_ranks[event] := accepted;
                END LOOP;
                first_event := first_event + event_counts[part];
                outcomes[part] := 'stored';
                versions[part] := stream_versions[this_stream];
                positions[part] := accepted;  -- its rank, until positions are drawn
            END LOOP;
        END IF;
        first_event := next_event;
        first_part := last_part + 1;
    END LOOP;
    IF accepted = 0 THEN
        RETURN;
    END IF;

    PERFORM headwater.take_append_lock();

    WITH appended AS (
        INSERT INTO headwater.events AS e (global_position, stream_id, version, type, data, metadata, event_id, recorded_at)
        SELECT nextval('headwater.global_position_seq'), n.stream_id, n.version, n.type, n.data, n.metadata, n.event_id, clock_timestamp()
          FROM unnest(event_streams, event_versions, types, append_parts.data, append_parts.metadata, event_ids)
               AS n(stream_id, version, type, data, metadata, event_id)
         WHERE n.stream_id IS NOT NULL
           AND CASE WHEN headwater.is_event(n.type, n.data, n.metadata) AND n.event_id IS NOT NULL THEN true
                    ELSE headwater.check_event(n.type, n.data, n.metadata, n.event_id) END
        RETURNING e.global_position
    )
    SELECT array_agg(appended.global_position ORDER BY appended.global_position)
      INTO drawn
      FROM appended;

    FOR part IN 1..part_count LOOP
        IF outcomes[part] = 'stored' THEN
            positions[part] := drawn[positions[part]];
        END IF;
    END LOOP;
    IF tags IS NOT NULL THEN
        INSERT INTO headwater.event_tags (tag, global_position)
        SELECT DISTINCT n.tag, drawn[event_ranks[n.event]]
          FROM unnest(tags, tag_events) AS n(tag, event)
         WHERE event_ranks[n.event] IS NOT NULL;
    END IF;
END
$$;

-- Whether one of these events has a type or tag whose place is among those refused.
CREATE FUNCTION headwater.meets_scopes(refused integer[], types text[], tag_events integer[], tags text[], first_event integer, last_event integer)
RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT headwater.scope_of('all', '') = ANY (refused)
        OR EXISTS (SELECT FROM unnest(types[first_event:last_event]) AS t(type) WHERE headwater.scope_of('type', t.type) = ANY (refused))
        OR EXISTS (SELECT FROM unnest(tags, tag_events) AS t(tag, event)
                    WHERE t.event BETWEEN first_event AND last_event AND headwater.scope_of('tag', t.tag) = ANY (refused))
$$;

-- Raises what became of a unit that was not stored, as the error of its first part that failed.
CREATE FUNCTION headwater.raise_outcome(
    stream_names text[], part_streams integer[], expected_versions bigint[], outcomes text[], versions bigint[], positions bigint[], found_ids uuid[]
)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    expected  bigint;
    closed_at timestamptz;
BEGIN
    FOR part IN 1..cardinality(outcomes) LOOP
        IF outcomes[part] = 'duplicate' THEN
            RAISE EXCEPTION 'the event id % is stored already, but not by this very append; give new ids, or repeat the first append exactly', found_ids[part]
                USING ERRCODE = 'HW002', DETAIL = jsonb_build_object('event_id', found_ids[part])::text;
        END IF;
    END LOOP;
    FOR part IN 1..cardinality(outcomes) LOOP
        IF outcomes[part] = 'closed' THEN
            closed_at := timestamptz 'epoch' + positions[part] * interval '1 microsecond';
            RAISE EXCEPTION 'stream % was closed at % and takes no further events', quote_literal(stream_names[part_streams[part]]), closed_at
                USING ERRCODE = 'HW010', DETAIL = jsonb_build_object('stream_name', stream_names[part_streams[part]], 'closed_at', closed_at)::text;
        END IF;
    END LOOP;
    FOR part IN 1..cardinality(outcomes) LOOP
        IF outcomes[part] = 'conflict' THEN
            expected := expected_versions[part];
            RAISE EXCEPTION 'stream % has % events, expected %', quote_literal(stream_names[part_streams[part]]), versions[part], expected
                USING ERRCODE = 'HW001',
                      DETAIL = jsonb_build_object(
                          'stream_name', stream_names[part_streams[part]],
                          'expected', CASE expected WHEN -1 THEN 'an existing stream' WHEN 0 THEN 'no stream' ELSE 'version ' || expected END,
                          'actual_version', versions[part])::text;
        END IF;
    END LOOP;
END
$$;

-- append_parts that leaves out what others hold: the group append. Not even the creator of a stream is waited for longer than 20 ms.
-- Plans are made once and kept while the tables grow, so they must not be those of small tables.
CREATE FUNCTION headwater.append_group(
    stream_names      text[],
    part_units        integer[],
    part_streams      integer[],
    expected_versions bigint[],
    event_counts      integer[],
    types             text[],
    data              jsonb[],
    metadata          jsonb[],
    event_ids         uuid[],
    tag_events        integer[],
    tags              text[],
    OUT outcomes  text[],
    OUT versions  bigint[],
    OUT positions bigint[],
    OUT found_ids uuid[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    SELECT p.outcomes, p.versions, p.positions, p.found_ids
      INTO outcomes, versions, positions, found_ids
      FROM headwater.append_parts(stream_names, part_units, part_streams, expected_versions, event_counts,
                                  types, data, metadata, event_ids, tag_events, tags, false) AS p;
END
$$;

-- append_parts for one unit that waits for what others hold, and raises what came in its way.
-- Raises HW001 (wrong expected version; DETAIL is JSON), HW002 (an id is stored already), HW003 (refused input), HW010 (closed stream).
CREATE FUNCTION headwater.append_unit(
    stream_names      text[],
    part_streams      integer[],
    expected_versions bigint[],
    event_counts      integer[],
    types             text[],
    data              jsonb[],
    metadata          jsonb[],
    event_ids         uuid[],
    tag_events        integer[],
    tags              text[],
    OUT versions  bigint[],
    OUT positions bigint[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    outcomes  text[];
    found_ids uuid[];
BEGIN
    SELECT p.outcomes, p.versions, p.positions, p.found_ids
      INTO outcomes, versions, positions, found_ids
      FROM headwater.append_parts(stream_names, array_fill(1, ARRAY[cardinality(part_streams)]), part_streams, expected_versions, event_counts,
                                  types, data, metadata, event_ids, tag_events, tags, true) AS p;
    PERFORM headwater.raise_outcome(stream_names, part_streams, expected_versions, outcomes, versions, positions, found_ids);
END
$$;

-- append_group for one event, in as few steps as there can be: what a lone caller waits for. What is unusual goes the long way.
CREATE FUNCTION headwater.append_one(
    stream_name      text,
    expected_version bigint,
    type             text,
    data             jsonb,
    metadata         jsonb,
    event_id         uuid,
    OUT outcome         text,
    OUT version         bigint,
    OUT global_position bigint,
    OUT found_id        uuid
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    this_stream bigint;
    is_open     boolean;
    is_repeated boolean;
BEGIN
    IF headwater.is_stream_name(append_one.stream_name) AND headwater.is_event(append_one.type, append_one.data, append_one.metadata)
       AND append_one.event_id IS NOT NULL AND current_setting('synchronous_commit') <> 'off'
       AND pg_try_advisory_xact_lock_shared(headwater.append_lock_namespace()::integer, headwater.scope_of('all', ''))
       AND pg_try_advisory_xact_lock_shared(headwater.append_lock_namespace()::integer, headwater.scope_of('type', append_one.type))
    THEN
        SELECT s.stream_id, s.closed_at IS NULL INTO this_stream, is_open FROM headwater.streams AS s WHERE s.stream_name = append_one.stream_name FOR NO KEY UPDATE SKIP LOCKED;
        IF this_stream IS NULL THEN
            is_open := true;
            INSERT INTO headwater.streams AS s (stream_name) VALUES (append_one.stream_name)
                ON CONFLICT ON CONSTRAINT streams_stream_name_key DO NOTHING
                RETURNING s.stream_id INTO this_stream;
        END IF;
        SELECT EXISTS (SELECT FROM headwater.events AS e WHERE e.event_id = append_one.event_id)
                   OR EXISTS (SELECT FROM headwater.archived_events AS e WHERE e.event_id = append_one.event_id),
               (SELECT coalesce(max(e.version), 0) FROM headwater.events AS e WHERE e.stream_id = this_stream)
          INTO is_repeated, version;
        IF is_open AND this_stream IS NOT NULL AND NOT is_repeated AND (expected_version = version OR expected_version IS NULL OR expected_version = -1 AND version > 0) THEN
            PERFORM pg_advisory_xact_lock_shared((headwater.append_lock_namespace() << 48) | (s.last_value - (NOT s.is_called)::int))
               FROM headwater.global_position_seq AS s;
            INSERT INTO headwater.events AS e (global_position, stream_id, version, type, data, metadata, event_id, recorded_at)
            VALUES (nextval('headwater.global_position_seq'), this_stream, append_one.version + 1, append_one.type, append_one.data, append_one.metadata,
                    append_one.event_id, clock_timestamp())
            RETURNING 'stored', e.version, e.global_position INTO outcome, version, global_position;
            RETURN;
        END IF;
    END IF;
    SELECT p.outcomes[1], p.versions[1], p.positions[1], p.found_ids[1]
      INTO outcome, version, global_position, found_id
      FROM headwater.append_parts(ARRAY[append_one.stream_name], '{1}', '{1}', ARRAY[append_one.expected_version], '{1}', ARRAY[append_one.type],
                                  ARRAY[append_one.data], ARRAY[append_one.metadata], ARRAY[append_one.event_id], NULL, NULL, false) AS p;
END
$$;

-- Adds events to the end of one stream, all or none, inside the caller's transaction: the append for any driver.
--   expected_version  NULL: any; -1: the stream must exist; 0: it must not; n: it must have exactly n events
--   metadata          may be NULL: empty; its values are text
--   event_ids         may be NULL: drawn here. Repeating an append with the same ids stores nothing and returns the first result.
--   tags              given to each of the events; may be NULL
-- Returns the version and the position of the last event.
-- Raises HW001 (wrong expected version; DETAIL is JSON), HW002 (an id is stored already), HW003 (refused input), HW010 (closed stream).
CREATE FUNCTION headwater.append_events(
    stream_name      text,
    expected_version bigint,
    types            text[],
    data             jsonb[],
    metadata         jsonb[] DEFAULT NULL,
    event_ids        uuid[]  DEFAULT NULL,
    tags             text[]  DEFAULT NULL,
    OUT version         bigint,
    OUT global_position bigint
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    event_count integer := coalesce(cardinality(types), 0);
    done        record;
BEGIN
    done := headwater.append_unit(
        ARRAY[append_events.stream_name],
        '{1}',
        ARRAY[append_events.expected_version],
        ARRAY[event_count],
        types,
        append_events.data,
        coalesce(append_events.metadata, array_fill('{}'::jsonb, ARRAY[event_count])),
        coalesce(append_events.event_ids, ARRAY(SELECT gen_random_uuid() FROM generate_series(1, event_count))),
        (SELECT array_agg(n.event) FROM generate_series(1, event_count) AS n(event), unnest(append_events.tags)),
        (SELECT array_agg(t.tag) FROM generate_series(1, event_count) AS n(event), unnest(append_events.tags) AS t(tag)));
    version := done.versions[1];
    global_position := done.positions[1];
END
$$;

-- The positions above one of the events that a query finds: any of its items, each with types (one of them, or any) and tags (all of them).
CREATE FUNCTION headwater.matching_positions(query jsonb, after bigint) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT coalesce(q.types, '{}') AS types, coalesce(q.tags, '{}') AS tags FROM jsonb_to_recordset(query) AS q(types text[], tags text[]) LOOP
        IF item.tags = '{}' THEN
            RETURN QUERY
            SELECT e.global_position
              FROM headwater.all_events AS e
             WHERE e.global_position > after
               AND (item.types = '{}' OR e.type = ANY (item.types));
        ELSE
            RETURN QUERY
            SELECT first.global_position
              FROM headwater.event_tags AS first
             WHERE first.tag = item.tags[1]
               AND first.global_position > after
               AND NOT EXISTS (SELECT
                                 FROM unnest(item.tags[2:]) AS other(tag)
                                WHERE NOT EXISTS (SELECT FROM headwater.event_tags AS t WHERE t.tag = other.tag AND t.global_position = first.global_position))
               AND (item.types = '{}'
                    OR EXISTS (SELECT FROM headwater.all_events AS e WHERE e.global_position = first.global_position AND e.type = ANY (item.types)));
        END IF;
    END LOOP;
END
$$;

-- Appends one unit if no other event that the query finds came since it was read, inside the caller's transaction.
--   query                    [{"types": […], "tags": […]}, …]
--   read_horizon, known_ids  the token of that read: the horizon then, and the ids of what was seen above it
-- The rest, and what is returned, as append_group, waiting for what others hold. Repeating an append that was stored answers as the first time.
-- Raises HW001, HW002, HW003 as append_events; HW005 (another event matches; DETAIL is JSON), HW004 (under an old snapshot).
-- Locks: the places of the query's tags, or of its types where it names no tag, alone; so nobody adds a match between look and append.
CREATE FUNCTION headwater.append_conditionally(
    query             jsonb,
    read_horizon      bigint,
    known_ids         uuid[],
    stream_names      text[],
    part_streams      integer[],
    expected_versions bigint[],
    event_counts      integer[],
    types             text[],
    data              jsonb[],
    metadata          jsonb[],
    event_ids         uuid[],
    tag_events        integer[],
    tags              text[],
    OUT versions  bigint[],
    OUT positions bigint[]
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    found record;
    done  record;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a conditional append in a % transaction would not see what came since; use READ COMMITTED', current_setting('transaction_isolation')
            USING ERRCODE = 'HW004';
    END IF;
    PERFORM pg_advisory_xact_lock(headwater.append_lock_namespace()::integer, scopes.scope)
       FROM (SELECT headwater.scope_of('tag', t.tag) AS scope
               FROM jsonb_to_recordset(query) AS q(types text[], tags text[]), unnest(q.tags) AS t(tag)
              UNION
             SELECT headwater.scope_of('type', t.type)
               FROM jsonb_to_recordset(query) AS q(types text[], tags text[]), unnest(q.types) AS t(type)
              WHERE coalesce(cardinality(q.tags), 0) = 0
              UNION
             SELECT headwater.scope_of('all', '')
               FROM jsonb_to_recordset(query) AS q(types text[], tags text[])
              WHERE coalesce(cardinality(q.tags), 0) = 0 AND coalesce(cardinality(q.types), 0) = 0
              ORDER BY scope) AS scopes;

    IF NOT EXISTS (SELECT FROM headwater.all_events AS e WHERE e.event_id = event_ids[1]) THEN
        SELECT e.global_position, e.type, e.event_id
          INTO found
          FROM headwater.matching_positions(query, read_horizon) AS m(global_position)
          JOIN headwater.all_events AS e ON e.global_position = m.global_position
         WHERE e.event_id <> ALL (known_ids)
         ORDER BY e.global_position
         LIMIT 1;
        IF found.event_id IS NOT NULL THEN
            RAISE EXCEPTION 'the event % (%) came since the decision was read', found.event_id, found.type
                USING ERRCODE = 'HW005',
                      DETAIL = jsonb_build_object('event_id', found.event_id, 'event_type', found.type, 'global_position', found.global_position)::text;
        END IF;
    END IF;

    done := headwater.append_unit(
        stream_names, part_streams, expected_versions, event_counts,
        types, append_conditionally.data, append_conditionally.metadata, event_ids, tag_events, append_conditionally.tags);
    versions := done.versions;
    positions := done.positions;
END
$$;
