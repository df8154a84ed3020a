-- GET /api/customer/{id}, and the join of GET /api/session.
-- The application ships no keys; the ids are unique.
--
-- Built plainly: 500,000 rows take 0.1 s, the application never writes
-- customers, and a plain build blocks no reads.
CREATE UNIQUE INDEX customers_id ON customers (id);
