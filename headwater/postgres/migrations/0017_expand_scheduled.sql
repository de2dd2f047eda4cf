-- Messages for later, and recurring schedules, all on this database's clock (docs/decisions/0024-messages-for-later.md).

-- Messages that wait for their moment. Whoever delivers one removes its row and appends it to the log in one transaction. Personal data is sealed in
-- `data`, as in the log. `message_id` is the id that the event has in the log, so that no message can stand there twice.
CREATE TABLE headwater.scheduled_messages (
    message_id   uuid        NOT NULL CONSTRAINT scheduled_messages_pkey PRIMARY KEY,
    -- The order of scheduling, which messages of one stream keep when they are due at the same moment.
    number       bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    due_at       timestamptz NOT NULL,
    stream_name  text        NOT NULL COLLATE "C",
    type         text        NOT NULL,
    data         jsonb       NOT NULL,
    metadata     jsonb       NOT NULL,
    tags         text[]      NOT NULL DEFAULT '{}',
    scheduled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Deliveries that failed, and when the next is tried; later messages of the stream wait for it.
    attempts     integer     NOT NULL DEFAULT 0,
    error        text,
    retry_at     timestamptz,
    CONSTRAINT scheduled_messages_error_known CHECK ((attempts > 0) = (error IS NOT NULL) AND (attempts > 0) = (retry_at IS NOT NULL))
);

CREATE INDEX scheduled_messages_due_at_idx ON headwater.scheduled_messages (due_at, number);
CREATE INDEX scheduled_messages_stream_name_idx ON headwater.scheduled_messages (stream_name, due_at, number);
-- Few, most of the time none.
CREATE INDEX scheduled_messages_retry_at_idx ON headwater.scheduled_messages (stream_name, retry_at) WHERE retry_at IS NOT NULL;

-- Recurring schedules, as the code of their services defines them. Whoever fires one appends its message and moves next_at in one transaction.
CREATE TABLE headwater.schedules (
    service_name  text        NOT NULL COLLATE "C",
    schedule_name text        NOT NULL COLLATE "C",
    cron          text        NOT NULL,
    timezone      text        NOT NULL,
    next_at       timestamptz NOT NULL,
    last_due_at   timestamptz,
    last_fired_at timestamptz,
    fired_count   bigint      NOT NULL DEFAULT 0,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts      integer     NOT NULL DEFAULT 0,
    error         text,
    retry_at      timestamptz,
    CONSTRAINT schedules_pkey PRIMARY KEY (service_name, schedule_name),
    CONSTRAINT schedules_error_known CHECK ((attempts > 0) = (error IS NOT NULL) AND (attempts > 0) = (retry_at IS NOT NULL))
) WITH (fillfactor = 50);

-- Keeps a message for later, in the caller's transaction, and returns when it is due. Any driver may call it.
--   stream_name    where it will be appended, like 'billing-outbox:A/7'; its category names the topic
--   message_id     the event's id: repeating the call with it changes nothing, also once it was delivered
--   due_at         when, or NULL: `after_seconds` from now. A moment that has passed is due at once.
-- Raises HW003 (refused input) and HW002 (the id is another message's).
CREATE FUNCTION headwater.schedule_event(
    stream_name   text,
    type          text,
    data          jsonb,
    metadata      jsonb,
    message_id    uuid,
    due_at        timestamptz,
    after_seconds double precision DEFAULT NULL,
    tags          text[] DEFAULT '{}'
) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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

-- Takes a message back, in the caller's transaction: 'cancelled', or 'delivered' when it is in the log already, or 'not there' when it was taken back
-- before, or never was. Waits for a delivery that is under way. Repeatable.
CREATE FUNCTION headwater.cancel_scheduled(message_id uuid) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
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

-- PostgreSQL lets everybody run a new function. Here nobody may but its owner and whom `headwater migrate --roles` names.
REVOKE ALL ON FUNCTION headwater.schedule_event, headwater.cancel_scheduled FROM PUBLIC;
