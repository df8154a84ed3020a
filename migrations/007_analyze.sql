-- The plans above need statistics, and autovacuum may not come by for a minute
-- after seeding. Blocks neither reads nor writes, also while it waits.
-- pgweir: no-transaction
ANALYZE movies;
ANALYZE customers;
ANALYZE sessions;
