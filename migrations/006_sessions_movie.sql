-- GET /api/session, see 002: 0.4 to 0.5 s for 100,000 of 5,000,000 rows, 5.8 s
-- without an index.
--
-- Only the key, 33 MB. With INCLUDE (customer_id, id, start_time) the list takes
-- 0.25 s, but the index 193 MB and each written session its share of that.
--
-- Built concurrently, for the reasons of 005: 2 s.
-- pgweir: no-transaction
CREATE INDEX CONCURRENTLY sessions_movie ON sessions (movie_id);
