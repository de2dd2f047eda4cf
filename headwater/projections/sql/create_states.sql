-- The rows of a fold, in the schema that the search path names. Rows change in place often, hence the room on each page.
CREATE TABLE states (
    key   text  NOT NULL COLLATE "C" CONSTRAINT states_pkey PRIMARY KEY,
    state jsonb NOT NULL
) WITH (fillfactor = 80)
