-- Note that a delivery failed, and when to try again.
-- $1 message_id uuid, $2 error text, $3 seconds double precision
-- Returns attempts integer; nothing where the message was delivered or cancelled meanwhile, or somebody delivers it now.
UPDATE headwater.scheduled_messages AS m
   SET attempts = m.attempts + 1,
       error = $2,
       retry_at = clock_timestamp() + make_interval(secs => $3)
 WHERE m.message_id = (
           SELECT found.message_id FROM headwater.scheduled_messages AS found WHERE found.message_id = $1 FOR UPDATE SKIP LOCKED
       )
RETURNING m.attempts
