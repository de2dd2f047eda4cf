-- Three roles that nobody logs in as, and everything of the log in the owner's hands. Grant `writer` to the logins of services, `reader` to those who look.
-- Repeatable. Names are checked identifiers. Needs CREATEROLE for roles that do not exist yet, and the database's owner or a superuser for the rest.
DO $$
DECLARE
    statement text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{owner}') THEN
        CREATE ROLE {owner} NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{writer}') THEN
        CREATE ROLE {writer} NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{reader}') THEN
        CREATE ROLE {reader} NOLOGIN;
    END IF;
    -- Whoever migrates acts for the owner; a superuser may do so anyway.
    IF NOT pg_has_role(current_user, '{owner}', 'USAGE') THEN
        GRANT {owner} TO CURRENT_USER;
    END IF;
    -- The owner must be able to own a schema; a service makes one for each version of a read model.
    EXECUTE format('GRANT CREATE ON DATABASE %I TO {owner}, {writer}', current_database());
    IF (SELECT nspowner::regrole FROM pg_namespace WHERE oid = 'headwater'::regnamespace) <> '{owner}'::regrole THEN
        ALTER SCHEMA headwater OWNER TO {owner};
    END IF;
    FOR statement IN
        SELECT format('ALTER %s %s OWNER TO {owner}',
                      CASE relations.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                      relations.oid::regclass)
          FROM pg_class AS relations
         WHERE relations.relnamespace = 'headwater'::regnamespace
           AND relations.relkind IN ('r', 'p', 'v', 'm', 'S')
           AND relations.relowner <> '{owner}'::regrole
           -- The sequence of an identity column goes with its table.
           AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = relations.oid AND d.deptype IN ('i', 'a'))
         UNION ALL
        SELECT format('ALTER FUNCTION %s OWNER TO {owner}', functions.oid::regprocedure)
          FROM pg_proc AS functions
         WHERE functions.pronamespace = 'headwater'::regnamespace
           AND functions.proowner <> '{owner}'::regrole
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

INSERT INTO headwater.roles (kind, role_name)
VALUES ('owner', '{owner}'), ('writer', '{writer}'), ('reader', '{reader}')
    ON CONFLICT ON CONSTRAINT roles_pkey DO UPDATE
   SET role_name = excluded.role_name;
