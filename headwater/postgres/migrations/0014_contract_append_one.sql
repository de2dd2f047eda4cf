-- try_append_one and append_group do what it did.
DROP FUNCTION headwater.append_one(text, bigint, text, jsonb, jsonb, uuid);
