-- The whole schema, as the migrations leave it. For reading; `headwater migrate` applies the migrations.
-- Written by `python tools/dump_schema.py`; a test compares it with the migrations.

CREATE SCHEMA headwater;

CREATE FUNCTION headwater.append_conditionally(query jsonb, read_horizon bigint, known_ids uuid[], stream_names text[], part_streams integer[], expected_versions bigint[], event_counts integer[], types text[], data jsonb[], metadata jsonb[], event_ids uuid[], tag_events integer[], tags text[], OUT versions bigint[], OUT positions bigint[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
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

CREATE FUNCTION headwater.append_events(stream_name text, expected_version bigint, types text[], data jsonb[], metadata jsonb[] DEFAULT NULL::jsonb[], event_ids uuid[] DEFAULT NULL::uuid[], tags text[] DEFAULT NULL::text[], OUT version bigint, OUT global_position bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
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

CREATE FUNCTION headwater.append_group(stream_names text[], part_units integer[], part_streams integer[], expected_versions bigint[], event_counts integer[], types text[], data jsonb[], metadata jsonb[], event_ids uuid[], tag_events integer[], tags text[], OUT outcomes text[], OUT versions bigint[], OUT positions bigint[], OUT found_ids uuid[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '20ms'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
BEGIN
    SELECT p.outcomes, p.versions, p.positions, p.found_ids
      INTO outcomes, versions, positions, found_ids
      FROM headwater.append_parts(stream_names, part_units, part_streams, expected_versions, event_counts,
                                  types, data, metadata, event_ids, tag_events, tags, false) AS p;
END
$$;

CREATE FUNCTION headwater.append_lock_namespace() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT 18519::bigint $$;

CREATE FUNCTION headwater.append_parts(stream_names text[], part_units integer[], part_streams integer[], expected_versions bigint[], event_counts integer[], types text[], data jsonb[], metadata jsonb[], event_ids uuid[], tag_events integer[], tags text[], may_wait boolean, OUT outcomes text[], OUT versions bigint[], OUT positions bigint[], OUT found_ids uuid[]) RETURNS record
    LANGUAGE plpgsql
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

CREATE FUNCTION headwater.append_unit(stream_names text[], part_streams integer[], expected_versions bigint[], event_counts integer[], types text[], data jsonb[], metadata jsonb[], event_ids uuid[], tag_events integer[], tags text[], OUT versions bigint[], OUT positions bigint[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
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

CREATE FUNCTION headwater.cancel_scheduled(message_id uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    DELETE FROM headwater.scheduled_messages AS m WHERE m.message_id = cancel_scheduled.message_id;
    IF FOUND THEN
        RETURN 'cancelled';
    END IF;
    -- A statement of its own: it sees what was committed while the first one waited.
    IF EXISTS (SELECT FROM headwater.all_events AS e WHERE e.event_id = cancel_scheduled.message_id) THEN
        RETURN 'delivered';
    END IF;
    RETURN 'not there';
END
$$;

CREATE FUNCTION headwater.check_event(type text, data jsonb, metadata jsonb, event_id uuid) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    AS $_$
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
$_$;

CREATE FUNCTION headwater.check_parts(stream_names text[], part_units integer[], part_streams integer[], expected_versions bigint[], event_counts integer[], types text[], data jsonb[], metadata jsonb[], event_ids uuid[]) RETURNS void
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

CREATE FUNCTION headwater.claim_lock_namespace() RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    taken bigint[];
    mine  bigint := headwater.append_lock_namespace();
BEGIN
    -- The migrators' lock: those who run the SQL by hand choose one after the other, too.
    PERFORM pg_advisory_xact_lock(7522525896805148018);
    SELECT coalesce(array_agg(substring(others.prosrc FROM '[0-9]+')::bigint), '{}')
      INTO taken
      FROM pg_proc AS others
     WHERE others.proname = 'append_lock_namespace'
       AND others.pronamespace <> 'headwater'::regnamespace;
    IF NOT mine = ANY (taken) THEN
        RETURN mine;
    END IF;
    -- 16 bits hold a namespace; the block with the first 16 bits of the migrators' lock is left out.
    SELECT min(free.namespace)
      INTO mine
      FROM generate_series(18519, 65520, 8) AS free(namespace)
     WHERE NOT free.namespace = ANY (taken)
       AND NOT 26725 BETWEEN free.namespace AND free.namespace + 7;
    IF mine IS NULL THEN
        RAISE EXCEPTION 'this database holds as many logs as it can; put this one into a database of its own' USING ERRCODE = '54000';
    END IF;
    -- Every append has locked its stream before it takes its append lock: here all have ended, and new ones wait and then find the new number.
    LOCK TABLE headwater.streams IN EXCLUSIVE MODE;
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION headwater.append_lock_namespace() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS %L',
        format(' SELECT %s::bigint ', mine));
    RETURN mine;
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

CREATE FUNCTION headwater.create_streams(stream_names text[], found_ids bigint[], missing text[]) RETURNS bigint[]
    LANGUAGE plpgsql
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

CREATE FUNCTION headwater.find_repeated(this_stream bigint, ids uuid[], OUT outcome text, OUT version bigint, OUT global_position bigint, OUT found_id uuid) RETURNS record
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

CREATE FUNCTION headwater.is_event(type text, data jsonb, metadata jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT char_length(type) BETWEEN 1 AND 200 AND type !~ '[\x01-\x1f\x7f]' AND octet_length(data::text) <= 1048576
       AND jsonb_typeof(metadata) = 'object' AND NOT jsonb_path_exists(metadata, '$.* ? (@.type() != "string")')
       AND octet_length(metadata::text) <= 16384
$_$;

CREATE FUNCTION headwater.is_event_of_good_type(data jsonb, metadata jsonb) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $_$
    SELECT octet_length(data::text) <= 1048576 AND jsonb_typeof(metadata) = 'object' AND NOT jsonb_path_exists(metadata, '$.* ? (@.type() != "string")')
       AND (pg_column_size(metadata) <= 2000 OR octet_length(metadata::text) <= 16384)
$_$;

CREATE FUNCTION headwater.is_stream_name(name text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    SELECT name ~ '^[A-Za-z0-9][A-Za-z0-9._]*(-[^\x01-\x1f\x7f]*)?$' AND char_length(name) <= 500 AND strpos(name || '-', '-') <= 201
$_$;

CREATE FUNCTION headwater.lock_streams(stream_names text[], may_wait boolean) RETURNS bigint[]
    LANGUAGE plpgsql
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

CREATE FUNCTION headwater.meets_scopes(refused integer[], types text[], tag_events integer[], tags text[], first_event integer, last_event integer) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
    SELECT headwater.scope_of('all', '') = ANY (refused)
        OR EXISTS (SELECT FROM unnest(types[first_event:last_event]) AS t(type) WHERE headwater.scope_of('type', t.type) = ANY (refused))
        OR EXISTS (SELECT FROM unnest(tags, tag_events) AS t(tag, event)
                    WHERE t.event BETWEEN first_event AND last_event AND headwater.scope_of('tag', t.tag) = ANY (refused))
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
    SELECT server.system_identifier, server.timeline, databases.oid AS database_oid
      INTO here
      FROM headwater.server_identity() AS server,
           pg_database AS databases
     WHERE databases.datname = current_database();
    SELECT * INTO latest FROM headwater.log_epochs ORDER BY epoch DESC LIMIT 1;
    IF latest.epoch IS NULL
       OR (latest.system_identifier, latest.timeline, latest.database_oid)
          IS DISTINCT FROM (coalesce(here.system_identifier, latest.system_identifier), coalesce(here.timeline, latest.timeline), here.database_oid)
    THEN
        LOCK TABLE headwater.log_epochs IN SHARE ROW EXCLUSIVE MODE;
        SELECT * INTO latest FROM headwater.log_epochs ORDER BY epoch DESC LIMIT 1;
        IF latest.epoch IS NULL
           OR (latest.system_identifier, latest.timeline, latest.database_oid)
              IS DISTINCT FROM (coalesce(here.system_identifier, latest.system_identifier), coalesce(here.timeline, latest.timeline), here.database_oid)
        THEN
            INSERT INTO headwater.log_epochs (epoch, log_id, system_identifier, timeline, database_oid, began_after)
            SELECT coalesce(latest.epoch, 0) + 1, coalesce(latest.log_id, gen_random_uuid()),
                   coalesce(here.system_identifier, latest.system_identifier, 0), coalesce(here.timeline, latest.timeline, 'unknown'), here.database_oid,
                   CASE WHEN latest.epoch IS NULL THEN 0 ELSE coalesce((SELECT l.global_position FROM headwater.log AS l ORDER BY l.global_position DESC LIMIT 1), 0) END
                ON CONFLICT ON CONSTRAINT log_epochs_pkey DO NOTHING;
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM headwater.log_epochs ORDER BY epoch;
END
$$;

CREATE FUNCTION headwater.raise_outcome(stream_names text[], part_streams integer[], expected_versions bigint[], outcomes text[], versions bigint[], positions bigint[], found_ids uuid[]) RETURNS void
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

CREATE FUNCTION headwater.raise_repeated(event_id uuid) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    AS $$
BEGIN
    RAISE unique_violation USING MESSAGE = format('the event id %s is in the archive', event_id);
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

CREATE FUNCTION headwater.schedule_event(stream_name text, type text, data jsonb, metadata jsonb, message_id uuid, due_at timestamp with time zone, after_seconds double precision DEFAULT NULL::double precision, tags text[] DEFAULT '{}'::text[]) RETURNS timestamp with time zone
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    kept_due_at timestamptz;
BEGIN
    PERFORM headwater.check_event(schedule_event.type, schedule_event.data, schedule_event.metadata, schedule_event.message_id);
    IF headwater.is_stream_name(schedule_event.stream_name) IS NOT TRUE THEN
        RAISE EXCEPTION 'a message for later needs the name of a stream, ''category-id'', this one is %', quote_nullable(left(schedule_event.stream_name, 60))
            USING ERRCODE = 'HW003';
    ELSIF num_nulls(schedule_event.due_at, after_seconds) <> 1 THEN
        RAISE EXCEPTION 'a message for later needs either the moment at which it is due or the seconds until then' USING ERRCODE = 'HW003';
    ELSIF after_seconds NOT BETWEEN 0 AND 315360000
        OR schedule_event.due_at > clock_timestamp() + interval '3650 days' OR schedule_event.due_at = '-infinity'
    THEN
        RAISE EXCEPTION 'a message may be due at most 3650 days from now, this one is due %', coalesce(schedule_event.due_at::text, after_seconds || ' seconds from now')
            USING ERRCODE = 'HW003';
    END IF;
    -- What was acknowledged is durable, as an append is.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    IF EXISTS (SELECT FROM headwater.all_events AS e WHERE e.event_id = schedule_event.message_id AND e.type = schedule_event.type) THEN
        RETURN coalesce(schedule_event.due_at, clock_timestamp());
    END IF;
    INSERT INTO headwater.scheduled_messages AS m (message_id, due_at, stream_name, type, data, metadata, tags)
    VALUES (schedule_event.message_id, coalesce(schedule_event.due_at, clock_timestamp() + make_interval(secs => after_seconds)),
            schedule_event.stream_name, schedule_event.type, schedule_event.data, schedule_event.metadata, coalesce(schedule_event.tags, '{}'))
        ON CONFLICT ON CONSTRAINT scheduled_messages_pkey DO NOTHING
    RETURNING m.due_at INTO kept_due_at;
    IF kept_due_at IS NULL THEN
        SELECT m.due_at
          INTO kept_due_at
          FROM headwater.scheduled_messages AS m
         WHERE m.message_id = schedule_event.message_id
           AND m.stream_name = schedule_event.stream_name
           AND m.type = schedule_event.type
           AND m.data = schedule_event.data;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the message id % is another message''s; give each its own', schedule_event.message_id
                USING ERRCODE = 'HW002', DETAIL = json_build_object('event_id', schedule_event.message_id);
        END IF;
    END IF;
    RETURN kept_due_at;
END
$$;

CREATE FUNCTION headwater.scope_of(kind text, value text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT hashtext(kind || ':' || value) & 1023 $$;

CREATE FUNCTION headwater.server_identity(OUT system_identifier bigint, OUT timeline text) RETURNS record
    LANGUAGE plpgsql
    AS $$
BEGIN
    BEGIN
        SELECT control.system_identifier INTO server_identity.system_identifier FROM pg_control_system() AS control;
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported OR object_not_in_prerequisite_state THEN
        NULL;
    END;
    BEGIN
        timeline := substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported OR object_not_in_prerequisite_state THEN
        NULL;
    END;
END
$$;

CREATE FUNCTION headwater.share_scopes(types text[], tags text[], may_wait boolean) RETURNS integer[]
    LANGUAGE plpgsql
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

CREATE FUNCTION headwater.try_append_many(stream_names text[], expected_versions bigint[], event_counts bigint[], distinct_types text[], types text[], data jsonb[], metadata jsonb[], event_ids uuid[], OUT versions bigint[], OUT positions bigint[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '20ms'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
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

CREATE FUNCTION headwater.try_append_one(stream_name text, expected_version bigint, type text, data jsonb, metadata jsonb, event_id uuid) RETURNS bigint[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '20ms'
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

CREATE TABLE headwater.consumer_lanes (
    group_name text NOT NULL COLLATE pg_catalog."C",
    topic text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    handler_name text NOT NULL COLLATE pg_catalog."C",
    lane_count integer NOT NULL,
    lane integer NOT NULL,
    epoch bigint NOT NULL,
    mark bigint DEFAULT '-1'::integer NOT NULL,
    CONSTRAINT consumer_lanes_lane_range CHECK (((lane >= 0) AND (lane < lane_count)))
)
WITH (fillfactor='50');

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
    last_event_id uuid,
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
    CONSTRAINT dead_letters_retry_possible CHECK (((status <> ALL (ARRAY['retrying'::text, 'handled'::text])) OR (num_nulls(handler_name, event_id) = 0))),
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

CREATE TABLE headwater.event_tags (
    tag text NOT NULL COLLATE pg_catalog."C",
    global_position bigint NOT NULL,
    CONSTRAINT event_tags_tag_length CHECK (((char_length(tag) >= 1) AND (char_length(tag) <= 200)))
);

CREATE SEQUENCE headwater.global_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE headwater.group_sources (
    group_name text NOT NULL COLLATE pg_catalog."C",
    source text NOT NULL COLLATE pg_catalog."C",
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT group_sources_source_known CHECK ((source = ANY (ARRAY['kafka'::text, 'postgres'::text])))
);

CREATE TABLE headwater.leases (
    name text NOT NULL COLLATE pg_catalog."C",
    holder text,
    term bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT leases_term_positive CHECK ((term > 0))
)
WITH (fillfactor='50');

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

CREATE TABLE headwater.log_partitioning (
    is_only boolean DEFAULT true NOT NULL,
    partition_count integer NOT NULL,
    first_used_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT log_partitioning_is_only CHECK (is_only),
    CONSTRAINT log_partitioning_partition_count_range CHECK (((partition_count >= 1) AND (partition_count <= 1000)))
);

CREATE TABLE headwater.migrations (
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE headwater.parked_keys (
    parked_key_id bigint NOT NULL,
    group_name text NOT NULL COLLATE pg_catalog."C",
    handler_name text NOT NULL COLLATE pg_catalog."C",
    topic text NOT NULL COLLATE pg_catalog."C",
    partition integer NOT NULL,
    message_key text NOT NULL COLLATE pg_catalog."C",
    status text DEFAULT 'waiting'::text NOT NULL,
    due_at timestamp with time zone NOT NULL,
    attempts integer NOT NULL,
    retries integer NOT NULL,
    error_type text,
    error_message text,
    traceback text,
    first_failed_at timestamp with time zone,
    last_failed_at timestamp with time zone,
    parked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    request text,
    requested_at timestamp with time zone,
    requested_for bigint,
    CONSTRAINT parked_keys_error_whole CHECK ((num_nulls(error_type, error_message, traceback, first_failed_at, last_failed_at) = ANY (ARRAY[0, 5]))),
    CONSTRAINT parked_keys_request_known CHECK ((request = ANY (ARRAY['retry'::text, 'skip'::text, 'discard'::text]))),
    CONSTRAINT parked_keys_request_whole CHECK ((num_nulls(request, requested_at, requested_for) = ANY (ARRAY[0, 3]))),
    CONSTRAINT parked_keys_status_known CHECK ((status = ANY (ARRAY['waiting'::text, 'stopped'::text])))
)
WITH (fillfactor='70');

ALTER TABLE headwater.parked_keys ALTER COLUMN parked_key_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headwater.parked_keys_parked_key_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE headwater.parked_messages (
    parked_message_id bigint NOT NULL,
    parked_key_id bigint NOT NULL,
    record_offset bigint NOT NULL,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    version bigint NOT NULL,
    log_id uuid NOT NULL,
    log_position text NOT NULL,
    raw jsonb NOT NULL,
    parked_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE headwater.parked_messages ALTER COLUMN parked_message_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headwater.parked_messages_parked_message_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
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
    predecessor text,
    CONSTRAINT relay_checkpoints_start CHECK (((global_position = 0) = (event_id IS NULL)))
)
WITH (fillfactor='50');

CREATE TABLE headwater.relay_divisions (
    topic text NOT NULL,
    through_epoch bigint NOT NULL,
    through_position bigint NOT NULL,
    partition_count integer NOT NULL,
    tails jsonb NOT NULL,
    divided_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT relay_divisions_partition_count_positive CHECK ((partition_count > 0))
);

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

CREATE TABLE headwater.roles (
    kind text NOT NULL,
    role_name text NOT NULL,
    CONSTRAINT roles_kind_known CHECK ((kind = ANY (ARRAY['owner'::text, 'writer'::text, 'reader'::text])))
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

CREATE TABLE headwater.scheduled_messages (
    message_id uuid NOT NULL,
    number bigint NOT NULL,
    due_at timestamp with time zone NOT NULL,
    stream_name text NOT NULL COLLATE pg_catalog."C",
    type text NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    tags text[] DEFAULT '{}'::text[] NOT NULL,
    scheduled_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    error text,
    retry_at timestamp with time zone,
    CONSTRAINT scheduled_messages_error_known CHECK ((((attempts > 0) = (error IS NOT NULL)) AND ((attempts > 0) = (retry_at IS NOT NULL))))
);

ALTER TABLE headwater.scheduled_messages ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME headwater.scheduled_messages_number_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE headwater.schedules (
    service_name text NOT NULL COLLATE pg_catalog."C",
    schedule_name text NOT NULL COLLATE pg_catalog."C",
    cron text NOT NULL,
    timezone text NOT NULL,
    next_at timestamp with time zone NOT NULL,
    last_due_at timestamp with time zone,
    last_fired_at timestamp with time zone,
    fired_count bigint DEFAULT 0 NOT NULL,
    registered_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    error text,
    retry_at timestamp with time zone,
    CONSTRAINT schedules_error_known CHECK ((((attempts > 0) = (error IS NOT NULL)) AND ((attempts > 0) = (retry_at IS NOT NULL))))
)
WITH (fillfactor='50');

CREATE TABLE headwater.schema_versions (
    subject text NOT NULL COLLATE pg_catalog."C",
    version integer NOT NULL,
    schema_id integer NOT NULL,
    registered_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT schema_versions_version_positive CHECK ((version > 0))
);

CREATE TABLE headwater.schemas (
    schema_id integer NOT NULL,
    fingerprint bytea NOT NULL,
    schema_text text NOT NULL,
    registered_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT schemas_fingerprint_sha256 CHECK ((octet_length(fingerprint) = 32)),
    CONSTRAINT schemas_schema_id_positive CHECK ((schema_id > 0))
);

CREATE TABLE headwater.snapshots (
    stream_name text NOT NULL COLLATE pg_catalog."C",
    decider_name text NOT NULL COLLATE pg_catalog."C",
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    shape text NOT NULL,
    state text NOT NULL,
    taken_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT snapshots_version_counted CHECK ((version > 0))
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

CREATE TABLE headwater.subject_keys (
    subject text NOT NULL COLLATE pg_catalog."C",
    key_id uuid NOT NULL,
    wrapped_key bytea,
    wrapped_by text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    forgotten_at timestamp with time zone,
    CONSTRAINT subject_keys_forgotten_without_key CHECK (((wrapped_key IS NULL) = (forgotten_at IS NOT NULL))),
    CONSTRAINT subject_keys_wrapping_of_a_key CHECK (((wrapped_by IS NULL) OR (wrapped_key IS NOT NULL)))
);

ALTER TABLE ONLY headwater.archived_events
    ADD CONSTRAINT archived_events_event_id_key UNIQUE (event_id);

ALTER TABLE ONLY headwater.archived_events
    ADD CONSTRAINT archived_events_pkey PRIMARY KEY (global_position);

ALTER TABLE ONLY headwater.archived_events
    ADD CONSTRAINT archived_events_stream_id_version_key UNIQUE (stream_id, version);

ALTER TABLE ONLY headwater.consumer_lanes
    ADD CONSTRAINT consumer_lanes_pkey PRIMARY KEY (group_name, topic, partition, handler_name, lane_count, lane);

ALTER TABLE ONLY headwater.consumer_positions
    ADD CONSTRAINT consumer_positions_pkey PRIMARY KEY (group_name, topic, partition);

ALTER TABLE ONLY headwater.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (dead_letter_id);

ALTER TABLE ONLY headwater.event_tags
    ADD CONSTRAINT event_tags_pkey PRIMARY KEY (tag, global_position);

ALTER TABLE ONLY headwater.events
    ADD CONSTRAINT events_event_id_key UNIQUE (event_id);

ALTER TABLE ONLY headwater.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (global_position);

ALTER TABLE ONLY headwater.events
    ADD CONSTRAINT events_stream_id_version_key UNIQUE (stream_id, version);

ALTER TABLE ONLY headwater.group_sources
    ADD CONSTRAINT group_sources_pkey PRIMARY KEY (group_name);

ALTER TABLE ONLY headwater.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (name);

ALTER TABLE ONLY headwater.log_epochs
    ADD CONSTRAINT log_epochs_pkey PRIMARY KEY (epoch);

ALTER TABLE ONLY headwater.log_partitioning
    ADD CONSTRAINT log_partitioning_pkey PRIMARY KEY (is_only);

ALTER TABLE ONLY headwater.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (name);

ALTER TABLE ONLY headwater.parked_keys
    ADD CONSTRAINT parked_keys_key_once UNIQUE (group_name, topic, partition, message_key, handler_name);

ALTER TABLE ONLY headwater.parked_keys
    ADD CONSTRAINT parked_keys_pkey PRIMARY KEY (parked_key_id);

ALTER TABLE ONLY headwater.parked_messages
    ADD CONSTRAINT parked_messages_pkey PRIMARY KEY (parked_message_id);

ALTER TABLE ONLY headwater.projections
    ADD CONSTRAINT projections_pkey PRIMARY KEY (name, role);

ALTER TABLE ONLY headwater.relay_checkpoints
    ADD CONSTRAINT relay_checkpoints_pkey PRIMARY KEY (shard);

ALTER TABLE ONLY headwater.relay_divisions
    ADD CONSTRAINT relay_divisions_pkey PRIMARY KEY (topic, through_epoch, through_position);

ALTER TABLE ONLY headwater.relay_positions
    ADD CONSTRAINT relay_positions_pkey PRIMARY KEY (topic, partition_number);

ALTER TABLE ONLY headwater.relay_topics
    ADD CONSTRAINT relay_topics_pkey PRIMARY KEY (topic);

ALTER TABLE ONLY headwater.roles
    ADD CONSTRAINT roles_pkey PRIMARY KEY (kind);

ALTER TABLE ONLY headwater.saga_deadlines
    ADD CONSTRAINT saga_deadlines_pkey PRIMARY KEY (saga_type, saga_key, kind, name);

ALTER TABLE ONLY headwater.saga_history
    ADD CONSTRAINT saga_history_pkey PRIMARY KEY (saga_type, saga_key, number);

ALTER TABLE ONLY headwater.sagas
    ADD CONSTRAINT sagas_pkey PRIMARY KEY (saga_type, saga_key);

ALTER TABLE ONLY headwater.scheduled_messages
    ADD CONSTRAINT scheduled_messages_pkey PRIMARY KEY (message_id);

ALTER TABLE ONLY headwater.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (service_name, schedule_name);

ALTER TABLE ONLY headwater.schema_versions
    ADD CONSTRAINT schema_versions_pkey PRIMARY KEY (subject, version);

ALTER TABLE ONLY headwater.schema_versions
    ADD CONSTRAINT schema_versions_schema_id_key UNIQUE (subject, schema_id);

ALTER TABLE ONLY headwater.schemas
    ADD CONSTRAINT schemas_fingerprint_key UNIQUE (fingerprint);

ALTER TABLE ONLY headwater.schemas
    ADD CONSTRAINT schemas_pkey PRIMARY KEY (schema_id);

ALTER TABLE ONLY headwater.snapshots
    ADD CONSTRAINT snapshots_pkey PRIMARY KEY (stream_name, decider_name);

ALTER TABLE ONLY headwater.streams
    ADD CONSTRAINT streams_pkey PRIMARY KEY (stream_id);

ALTER TABLE ONLY headwater.streams
    ADD CONSTRAINT streams_stream_name_key UNIQUE (stream_name);

ALTER TABLE ONLY headwater.subject_keys
    ADD CONSTRAINT subject_keys_key_id_key UNIQUE (key_id);

ALTER TABLE ONLY headwater.subject_keys
    ADD CONSTRAINT subject_keys_pkey PRIMARY KEY (subject);

CREATE INDEX dead_letters_group_name_idx ON headwater.dead_letters USING btree (group_name, dead_letter_id);

CREATE INDEX dead_letters_retrying_idx ON headwater.dead_letters USING btree (group_name, dead_letter_id) WHERE (status = 'retrying'::text);

CREATE INDEX event_tags_global_position_idx ON headwater.event_tags USING btree (global_position);

CREATE INDEX parked_messages_key_idx ON headwater.parked_messages USING btree (parked_key_id, parked_message_id);

CREATE INDEX saga_deadlines_due_at_idx ON headwater.saga_deadlines USING btree (due_at) WHERE (NOT is_failed);

CREATE INDEX sagas_status_idx ON headwater.sagas USING btree (status, started_at);

CREATE INDEX scheduled_messages_due_at_idx ON headwater.scheduled_messages USING btree (due_at, number);

CREATE INDEX scheduled_messages_retry_at_idx ON headwater.scheduled_messages USING btree (stream_name, retry_at) WHERE (retry_at IS NOT NULL);

CREATE INDEX scheduled_messages_stream_name_idx ON headwater.scheduled_messages USING btree (stream_name, due_at, number);

CREATE INDEX streams_closed_idx ON headwater.streams USING btree (stream_id) WHERE (closed_at IS NOT NULL);

CREATE INDEX streams_to_archive_idx ON headwater.streams USING btree (stream_id) WHERE ((closed_at IS NOT NULL) AND (archived_at IS NULL));

ALTER TABLE ONLY headwater.consumer_lanes
    ADD CONSTRAINT consumer_lanes_position FOREIGN KEY (group_name, topic, partition) REFERENCES headwater.consumer_positions(group_name, topic, partition) ON DELETE CASCADE;

ALTER TABLE ONLY headwater.parked_messages
    ADD CONSTRAINT parked_messages_key FOREIGN KEY (parked_key_id) REFERENCES headwater.parked_keys(parked_key_id);

ALTER TABLE ONLY headwater.saga_deadlines
    ADD CONSTRAINT saga_deadlines_saga_fkey FOREIGN KEY (saga_type, saga_key) REFERENCES headwater.sagas(saga_type, saga_key) ON DELETE CASCADE;

ALTER TABLE ONLY headwater.saga_history
    ADD CONSTRAINT saga_history_saga_fkey FOREIGN KEY (saga_type, saga_key) REFERENCES headwater.sagas(saga_type, saga_key) ON DELETE CASCADE;

ALTER TABLE ONLY headwater.schema_versions
    ADD CONSTRAINT schema_versions_schema_id_fkey FOREIGN KEY (schema_id) REFERENCES headwater.schemas(schema_id);
