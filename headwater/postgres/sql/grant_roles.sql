-- What the writer, which a service runs as, and the reader may do: everything else is the owner's. Names are checked identifiers. Repeatable.
-- Every table, view, sequence and function of the schema is named here, in a GRANT or in the REVOKE at the end; a test says so.
REVOKE ALL ON ALL TABLES IN SCHEMA headwater FROM PUBLIC, {writer}, {reader};
REVOKE ALL ON ALL SEQUENCES IN SCHEMA headwater FROM PUBLIC, {writer}, {reader};
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA headwater FROM PUBLIC, {writer}, {reader};
REVOKE ALL ON SCHEMA headwater FROM PUBLIC, {writer}, {reader};
GRANT USAGE ON SCHEMA headwater TO {writer}, {reader};

-- The log is read by both, and written through functions alone, which run with the owner's rights.
GRANT SELECT ON
    headwater.events, headwater.archived_events, headwater.all_events, headwater.event_tags, headwater.streams, headwater.log, headwater.log_epochs,
    headwater.global_position_seq
    TO {writer}, {reader};
GRANT EXECUTE ON FUNCTION
    headwater.read_horizon, headwater.append_lock_namespace, headwater.open_log, headwater.matching_positions
    TO {writer}, {reader};
GRANT EXECUTE ON FUNCTION
    headwater.append_events, headwater.try_append_one, headwater.try_append_many, headwater.append_group, headwater.append_unit, headwater.append_conditionally,
    headwater.close_stream, headwater.schedule_event, headwater.cancel_scheduled
    TO {writer};

-- What a service keeps: how far it relayed and consumed, what it gave up on, its read models and sagas.
GRANT SELECT, INSERT, UPDATE ON
    headwater.leases, headwater.relay_checkpoints, headwater.relay_topics, headwater.relay_positions,
    headwater.group_sources, headwater.sagas
    TO {writer};
GRANT SELECT, INSERT, UPDATE, DELETE ON headwater.consumer_positions TO {writer};
GRANT SELECT, INSERT, UPDATE, DELETE ON headwater.dead_letters, headwater.projections, headwater.saga_deadlines, headwater.snapshots TO {writer};
GRANT SELECT, INSERT, UPDATE, DELETE ON headwater.parked_keys, headwater.parked_messages, headwater.consumer_lanes TO {writer};
GRANT SELECT ON headwater.parked_keys, headwater.parked_messages, headwater.consumer_lanes TO {reader};
GRANT SELECT, INSERT, UPDATE, DELETE ON headwater.schedules TO {writer};
GRANT SELECT, UPDATE, DELETE ON headwater.scheduled_messages TO {writer};
GRANT SELECT, INSERT ON headwater.saga_history, headwater.schemas, headwater.schema_versions TO {writer};
GRANT SELECT ON
    headwater.leases, headwater.relay_checkpoints, headwater.relay_topics, headwater.relay_positions,
    headwater.consumer_positions, headwater.sagas, headwater.dead_letters, headwater.projections, headwater.saga_deadlines, headwater.saga_history,
    headwater.group_sources, headwater.snapshots, headwater.schemas, headwater.schema_versions, headwater.scheduled_messages, headwater.schedules
    TO {reader};

-- Into how many partitions handlers see the log: kept once.
GRANT SELECT, INSERT ON headwater.log_partitioning, headwater.relay_divisions TO {writer};
GRANT SELECT ON headwater.log_partitioning, headwater.relay_divisions TO {reader};

-- The keys of personal data: whoever reads the log does not read these by it.
GRANT SELECT, INSERT, UPDATE ON headwater.subject_keys TO {writer};

-- Whether the schema is the one that a program needs, and whom it was set up for.
GRANT SELECT ON headwater.migrations, headwater.roles TO {writer}, {reader};

-- The owner's alone: what the functions above are made of, and the sequences of identity columns.
REVOKE ALL ON FUNCTION
    headwater.append_parts, headwater.check_event, headwater.check_parts, headwater.claim_lock_namespace, headwater.create_streams,
    headwater.find_repeated, headwater.is_event, headwater.is_event_of_good_type, headwater.is_stream_name, headwater.lock_streams, headwater.meets_scopes, headwater.raise_outcome,
    headwater.raise_repeated, headwater.scope_of, headwater.server_identity, headwater.share_scopes, headwater.take_append_lock
    FROM PUBLIC, {writer}, {reader};
REVOKE ALL ON SEQUENCE headwater.streams_stream_id_seq, headwater.dead_letters_dead_letter_id_seq FROM PUBLIC, {writer}, {reader};
REVOKE ALL ON SEQUENCE headwater.parked_keys_parked_key_id_seq, headwater.parked_messages_parked_message_id_seq FROM PUBLIC, {writer}, {reader};
REVOKE ALL ON SEQUENCE headwater.scheduled_messages_number_seq FROM PUBLIC, {writer}, {reader};
