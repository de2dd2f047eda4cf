-- Take a message back.
-- $1 message_id uuid
-- Returns 'cancelled', 'delivered' or 'not there'. Waits for a delivery of it that is under way.
SELECT headwater.cancel_scheduled($1)
