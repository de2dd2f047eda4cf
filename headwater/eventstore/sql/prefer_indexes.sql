-- Have this session look rows up one by one: plans made while the log is empty are kept while it grows to millions.
-- Returns nothing of use. Takes no locks.
SELECT set_config('enable_seqscan', 'off', FALSE),
       set_config('enable_hashjoin', 'off', FALSE),
       set_config('enable_mergejoin', 'off', FALSE),
       set_config('plan_cache_mode', 'force_generic_plan', FALSE)
