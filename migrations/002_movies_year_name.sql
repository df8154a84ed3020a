-- GET /api/movie in its order.
-- It is also what makes GET /api/session fast: PostgreSQL walks the movies in
-- this order, fetches each one's sessions by movie_id (006) and sorts only
-- within a movie ("Incremental Sort"), so it ends after the first 100,000 of
-- 5,000,000 rows.
--
-- Built plainly, for the reasons of 001.
CREATE INDEX movies_year_name ON movies (year DESC, name, id DESC);
