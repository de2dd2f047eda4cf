-- Dead letters that somebody decided upon. A letter waits, is to be tried again, or is settled: handled by a retry, or skipped for good.

ALTER TABLE headwater.dead_letters
    ADD COLUMN status             text NOT NULL DEFAULT 'waiting',
    ADD COLUMN retry_requested_at timestamptz,
    ADD COLUMN settled_at         timestamptz,
    ADD CONSTRAINT dead_letters_status_known CHECK (status IN ('waiting', 'retrying', 'handled', 'skipped')),
    ADD CONSTRAINT dead_letters_settled_at_known CHECK ((settled_at IS NOT NULL) = (status IN ('handled', 'skipped'))),
    -- Only a whole event can go through its handler again.
    ADD CONSTRAINT dead_letters_retry_possible CHECK (
        status NOT IN ('retrying', 'handled') OR num_nulls(handler_name, event_id, data) = 0
    );

-- What consumers poll: next to nothing, most of the time.
CREATE INDEX dead_letters_retrying_idx ON headwater.dead_letters (group_name, dead_letter_id) WHERE status = 'retrying';
