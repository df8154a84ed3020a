//! The lists the application answers, and the order they have to be in.

use std::cmp::Ordering;

use serde::Deserialize;

/// A row of `/api/movie`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Movie {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) year: i64,
}

/// A row of `/api/customer`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Customer {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) surname: String,
    /// ISO, so its order is that of the dates.
    pub(crate) birthday: String,
}

/// A row of `/api/session`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Session {
    pub(crate) id: i64,
    pub(crate) customer: Customer,
    pub(crate) movie: Movie,
}

/// A row that has a place in its list. Texts are compared by their bytes: the
/// database is made with the C locale.
pub(crate) trait Listed {
    fn order(&self, next: &Self) -> Ordering;
}

impl Listed for Movie {
    /// `year DESC, name ASC, id DESC`.
    fn order(&self, next: &Movie) -> Ordering {
        next.year
            .cmp(&self.year)
            .then_with(|| self.name.cmp(&next.name))
            .then_with(|| next.id.cmp(&self.id))
    }
}

impl Listed for Customer {
    /// `surname ASC, name ASC, birthday DESC, id DESC`.
    fn order(&self, next: &Customer) -> Ordering {
        self.surname
            .cmp(&next.surname)
            .then_with(|| self.name.cmp(&next.name))
            .then_with(|| next.birthday.cmp(&self.birthday))
            .then_with(|| next.id.cmp(&self.id))
    }
}

impl Listed for Session {
    /// `movies.year DESC, movies.name ASC, customers.id, sessions.id DESC`.
    fn order(&self, next: &Session) -> Ordering {
        next.movie
            .year
            .cmp(&self.movie.year)
            .then_with(|| self.movie.name.cmp(&next.movie.name))
            .then_with(|| self.customer.id.cmp(&next.customer.id))
            .then_with(|| next.id.cmp(&self.id))
    }
}

/// Whether each row comes before its successor; the same row twice is not in
/// order.
pub(crate) fn in_order<T: Listed>(rows: &[T]) -> bool {
    rows.windows(2)
        .all(|pair| pair[0].order(&pair[1]) == Ordering::Less)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn movie(year: i64, name: &str, id: i64) -> Movie {
        Movie {
            id,
            name: name.into(),
            year,
        }
    }

    fn customer(surname: &str, name: &str, birthday: &str, id: i64) -> Customer {
        Customer {
            id,
            name: name.into(),
            surname: surname.into(),
            birthday: birthday.into(),
        }
    }

    #[test]
    fn movies_are_by_year_name_and_id() {
        let rows = [
            movie(2001, "b", 1),
            movie(2000, "a", 9),
            movie(2000, "a", 3),
            movie(2000, "b", 5),
        ];
        assert!(in_order(&rows));
        for (one, other) in [(0, 1), (1, 2), (2, 3)] {
            let mut wrong = rows.clone();
            wrong.swap(one, other);
            assert!(!in_order(&wrong), "{one}");
        }
    }

    #[test]
    fn customers_are_by_surname_name_birthday_and_id() {
        let rows = [
            customer("A", "z", "1990-01-01", 1),
            customer("B", "a", "1991-01-01", 1),
            customer("B", "a", "1990-12-31", 7),
            customer("B", "a", "1990-12-31", 2),
            customer("B", "b", "2000-01-01", 9),
        ];
        assert!(in_order(&rows));
        for first in 0..4 {
            let mut wrong = rows.clone();
            wrong.swap(first, first + 1);
            assert!(!in_order(&wrong), "{first}");
        }
    }

    #[test]
    fn sessions_are_by_movie_customer_and_id() {
        let session = |year, customer_id, id| Session {
            id,
            customer: customer("s", "n", "b", customer_id),
            movie: movie(year, "m", 1),
        };
        let rows = [
            session(2001, 5, 1),
            session(2000, 1, 9),
            session(2000, 1, 2),
            session(2000, 2, 3),
        ];
        assert!(in_order(&rows));
        for first in 0..3 {
            let mut wrong = rows.clone();
            wrong.swap(first, first + 1);
            assert!(!in_order(&wrong), "{first}");
        }
    }

    #[test]
    fn a_row_twice_is_not_in_order() {
        let row = movie(2000, "a", 1);
        assert!(!in_order(&[row.clone(), row]));
    }
}
