//! The SQL the application sends, byte for byte, and the JSON its rows become.

/// What one column or group of columns is in JSON.
pub(crate) enum Shape {
    /// A number, copied as PostgreSQL writes it.
    Number(&'static str),
    /// A string.
    Text(&'static str),
    /// A `timestamp`, written as RFC 3339 in UTC.
    Time(&'static str),
    /// An object of the following columns.
    Object(&'static str, &'static [Shape]),
}

/// The columns of a customer.
pub(crate) const CUSTOMER: &[Shape] = &[
    Shape::Number("id"),
    Shape::Text("name"),
    Shape::Text("surname"),
    Shape::Text("birthday"),
    Shape::Text("email"),
];

/// The columns of a movie.
pub(crate) const MOVIE: &[Shape] = &[
    Shape::Number("id"),
    Shape::Text("name"),
    Shape::Number("year"),
    Shape::Number("duration"),
];

/// The columns of a session with its parents.
pub(crate) const SESSION: &[Shape] = &[
    Shape::Number("id"),
    Shape::Time("start_time"),
    Shape::Object("customer", CUSTOMER),
    Shape::Object("movie", MOVIE),
];

/// The 100 ms of `/db_dummy`.
pub(crate) const SLEEP: &str = "SELECT pg_sleep(0.1)";

/// What a node is asked every five seconds.
pub(crate) const IS_PRIMARY: &str = "SELECT NOT pg_is_in_recovery()";

pub(crate) const CUSTOMERS: &str = "SELECT customers.id, customers.name, customers.surname, customers.birthday, customers.email FROM customers ORDER BY customers.surname ASC, customers.name ASC, customers.birthday DESC, customers.id DESC LIMIT 100000";

pub(crate) const CUSTOMER_BY_ID: &str = "SELECT customers.id, customers.name, customers.surname, customers.birthday, customers.email FROM customers WHERE customers.id IN ($1) ORDER BY customers.surname ASC, customers.name ASC, customers.birthday DESC, customers.id DESC LIMIT 100000";

pub(crate) const MOVIES: &str = "SELECT movies.id, movies.name, movies.year, movies.duration FROM movies ORDER BY movies.year DESC, movies.name ASC, movies.id DESC LIMIT 100000";

pub(crate) const MOVIE_BY_ID: &str = "SELECT movies.id, movies.name, movies.year, movies.duration FROM movies WHERE movies.id IN ($1) ORDER BY movies.year DESC, movies.name ASC, movies.id DESC LIMIT 100000";

pub(crate) const SESSIONS: &str = "SELECT sessions.id, sessions.start_time, customers.id, customers.name, customers.surname, customers.birthday, customers.email, movies.id, movies.name, movies.year, movies.duration FROM sessions INNER JOIN customers ON sessions.customer_id = customers.id INNER JOIN movies ON sessions.movie_id = movies.id ORDER BY movies.year DESC, movies.name ASC, customers.id, sessions.id DESC LIMIT 100000";

pub(crate) const SESSION_BY_ID: &str = "SELECT sessions.id, sessions.start_time, customers.id, customers.name, customers.surname, customers.birthday, customers.email, movies.id, movies.name, movies.year, movies.duration FROM sessions INNER JOIN customers ON sessions.customer_id = customers.id INNER JOIN movies ON sessions.movie_id = movies.id WHERE sessions.id IN ($1) ORDER BY movies.year DESC, movies.name ASC, customers.id, sessions.id DESC LIMIT 100000";

pub(crate) const INSERT_SESSION: &str =
    "INSERT INTO sessions (start_time, customer_id, movie_id) VALUES ($1, $2, $3) RETURNING id";

pub(crate) const DELETE_SESSION: &str = "DELETE FROM sessions WHERE id = $1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_id_is_the_list_with_a_condition() {
        for (list, by_id, table) in [
            (CUSTOMERS, CUSTOMER_BY_ID, "customers"),
            (MOVIES, MOVIE_BY_ID, "movies"),
            (SESSIONS, SESSION_BY_ID, "sessions"),
        ] {
            let condition = format!(" WHERE {table}.id IN ($1) ORDER BY ");
            assert_eq!(by_id, list.replace(" ORDER BY ", &condition));
        }
    }

    #[test]
    fn shapes_cover_every_column() {
        fn columns(shapes: &[Shape]) -> usize {
            shapes
                .iter()
                .map(|shape| match shape {
                    Shape::Object(_, inner) => columns(inner),
                    _ => 1,
                })
                .sum()
        }
        for (sql, shape) in [(CUSTOMERS, CUSTOMER), (MOVIES, MOVIE), (SESSIONS, SESSION)] {
            let list = sql
                .strip_prefix("SELECT ")
                .expect("valid")
                .split(" FROM ")
                .next()
                .expect("valid");
            assert_eq!(list.split(", ").count(), columns(shape), "{sql}");
        }
    }
}
