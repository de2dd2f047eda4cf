-- Check now the constraints that a handler put off, so that it and no other is blamed.
SET CONSTRAINTS ALL IMMEDIATE
