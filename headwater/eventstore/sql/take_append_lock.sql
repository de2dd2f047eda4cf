-- What comes before positions are drawn, in every append: a durable commit and the append lock. In a statement of its own.
-- Returns nothing of use. Locks: shared, that of an append, to the end of the transaction.
SELECT headwater.take_append_lock(),
       CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'local', TRUE) END
