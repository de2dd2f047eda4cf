-- Fenced leases, for everything that several processes share without configuration. Why it looks like this: docs/decisions/0017-shared-relays.md.

-- The right to do something, by name. The term grows with every taking and never starts again, so it fences: what a holder writes may demand that
-- the row still has its term. Everybody's time is the database's. A lease that was given back has no holder; its row stays for its term.
CREATE TABLE headwater.leases (
    name       text        NOT NULL COLLATE "C" CONSTRAINT leases_pkey PRIMARY KEY,
    holder     text,
    term       bigint      NOT NULL CONSTRAINT leases_term_positive CHECK (term > 0),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);
