-- Let the next handler put constraints off again.
SET CONSTRAINTS ALL DEFERRED
