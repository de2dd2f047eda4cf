-- What an append takes before it locks its streams: the places that conditional appends of these types and tags would lock alone.
-- $1 types text[], $2 tags text[]. Returns nothing of use. Locks: shared, in order, to the end of the transaction; waits for who holds one alone.
SELECT headwater.share_scopes($1, $2, true)
