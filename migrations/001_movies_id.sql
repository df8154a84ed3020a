-- GET /api/movie/{id}, and the join of GET /api/session.
-- The application ships no keys; the ids are unique.
--
-- Built plainly: 29,019 rows take 10 ms, the application never writes movies,
-- and a plain build blocks no reads.
CREATE UNIQUE INDEX movies_id ON movies (id);
