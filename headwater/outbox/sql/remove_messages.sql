-- Remove messages that this transaction claimed and appended.
-- $1 message_ids uuid[]
-- Returns nothing. Relies on scheduled_messages_pkey.
DELETE FROM headwater.scheduled_messages WHERE message_id = ANY ($1::uuid[])
