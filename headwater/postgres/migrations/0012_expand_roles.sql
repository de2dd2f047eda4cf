-- Several logs in one database, and rights for those who use them (docs/decisions/0014-tenants-and-roles.md).

-- Which roles may do what with this log, as `headwater migrate --roles` set them up; later migrations grant what they add to the same roles.
CREATE TABLE headwater.roles (
    kind      text NOT NULL CONSTRAINT roles_pkey PRIMARY KEY,
    role_name text NOT NULL,
    CONSTRAINT roles_kind_known CHECK (kind IN ('owner', 'writer', 'reader'))
);

-- Gives this log's append locks a namespace that no other log of this database uses; does nothing where that is so. Each log has eight numbers
-- from its namespace on, for locks of other kinds. Appends meet no lock of another log then. Two logs with one namespace would lose nothing: a reader
-- takes the lowest lock that it sees, so it stops earlier, never later; but a busy log could hold the other's horizon back for ever.
-- The number is in the function's text, which everybody may read, also of another owner's log.
CREATE FUNCTION headwater.claim_lock_namespace() RETURNS bigint
LANGUAGE plpgsql VOLATILE
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

SELECT headwater.claim_lock_namespace();

-- What tells this server from another that has the log's tables, too. Some managed servers refuse the answer; what is unknown is NULL.
CREATE FUNCTION headwater.server_identity(OUT system_identifier bigint, OUT timeline text)
LANGUAGE plpgsql VOLATILE
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

-- Who this log is now. The first call gives it an id; a call on another server, timeline or database opens a new epoch at the cut. What the server
-- does not tell of itself changes nothing.
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

-- PostgreSQL lets everybody run a new function. Here nobody may but its owner and whom `headwater migrate --roles` names.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA headwater FROM PUBLIC;
