-- Let this transaction stay open without doing anything: it holds a claim for as long as another connection works.
-- Returns nothing.
SET LOCAL idle_in_transaction_session_timeout = 0
