-- GET /api/customer in its order.
--
-- Built plainly, for the reasons of 003: 0.4 s.
CREATE INDEX customers_surname_name ON customers (surname, name, birthday DESC, id DESC);
