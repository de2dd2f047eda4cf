-- The position of the last committed event, above the horizon or not; 0 when there is none.
-- Returns one bigint. Takes no locks; relies on events_pkey and its like in the archive.
SELECT greatest((SELECT coalesce(max(global_position), 0) FROM headwater.events),
                (SELECT coalesce(max(archived.global_position), 0) FROM headwater.archived_events AS archived))
