-- GET and DELETE /api/session/{id}.
-- The application ships no keys; the ids are unique.
--
-- Built concurrently: the application writes sessions while it serves, and a
-- plain build would make POST and DELETE wait for all of it. 5,000,000 rows
-- are read twice; it costs 1 s here.
-- pgweir: no-transaction
CREATE UNIQUE INDEX CONCURRENTLY sessions_id ON sessions (id);
