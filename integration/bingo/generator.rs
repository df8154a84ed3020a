//! The rows of the three tables, each a pure function of seed and id, so that
//! both ways of loading write the same data.

use jiff::civil::{Date, date};
use jiff::{SignedDuration, ToSpan};

/// How many rows each table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) customers: u32,
    pub(crate) movies: u32,
    pub(crate) sessions: u32,
}

/// The words of `BINGO_SIM_SCALE`.
pub(crate) const SCALES: &[(&str, Sizes)] = &[
    (
        "full",
        Sizes {
            customers: 500_000,
            movies: 29_019,
            sessions: 5_000_000,
        },
    ),
    (
        "limit",
        Sizes {
            customers: 15_000,
            movies: 870,
            sessions: 150_000,
        },
    ),
    (
        "ci",
        Sizes {
            customers: 5_000,
            movies: 290,
            sessions: 50_000,
        },
    ),
    (
        "tiny",
        Sizes {
            customers: 500,
            movies: 29,
            sessions: 5_000,
        },
    ),
];

/// PostgreSQL counts dates and times from here.
const EPOCH: Date = date(2000, 1, 1);

/// Every so manieth session points to a parent that does not exist...
const BROKEN_EVERY: u32 = 10_000;
/// ...and so many do at least.
const BROKEN_AT_LEAST: u32 = 5;

/// Milliseconds from the start of 2000 to the end of 2023.
const SESSION_SPAN_MS: u64 = 8_766 * 86_400_000;

/// Days from 1940-01-01 to 2005-12-31.
const BIRTHDAY_SPAN_DAYS: u64 = 24_107;
/// 1940-01-01 in days from [`EPOCH`].
const FIRST_BIRTHDAY: i32 = -21_915;

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    Int4(i32),
    Int8(i64),
    Text(String),
    /// Days since 2000-01-01.
    Date(i32),
    /// Microseconds since 2000-01-01.
    Timestamp(i64),
}

/// One of the three tables: what seeding needs to know of it.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// What one row is called in the progress lines.
    pub(crate) noun: &'static str,
    /// Columns in the order of [`Table::row`]; the first is `id`.
    pub(crate) columns: &'static [&'static str],
    pub(crate) size: fn(Sizes) -> u32,
    /// The row with an id from 1 to the table's size.
    pub(crate) row: fn(&Generator, u32) -> Vec<Field>,
}

/// The tables in the order they are filled.
pub(crate) const TABLES: [Table; 3] = [
    Table {
        name: "customers",
        noun: "customer",
        columns: &["id", "name", "surname", "birthday", "email"],
        size: |sizes| sizes.customers,
        row: Generator::customer,
    },
    Table {
        name: "movies",
        noun: "movie",
        columns: &["id", "name", "year", "duration"],
        size: |sizes| sizes.movies,
        row: Generator::movie,
    },
    Table {
        name: "sessions",
        noun: "session",
        columns: &["id", "start_time", "customer_id", "movie_id"],
        size: |sizes| sizes.sessions,
        row: Generator::session,
    },
];

/// Makes rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Generator {
    pub(crate) seed: u64,
    pub(crate) sizes: Sizes,
}

impl Generator {
    fn customer(&self, id: u32) -> Vec<Field> {
        let mut dice = Dice::new(self.seed, 1, id);
        let (name, surname) = (dice.pick(NAMES), dice.pick(SURNAMES));
        let birthday = FIRST_BIRTHDAY + small(dice.below(BIRTHDAY_SPAN_DAYS));
        let email = format!("{name}.{surname}{id}@example.com").to_lowercase();
        vec![
            Field::Int4(int4(id)),
            Field::Text(name.into()),
            Field::Text(surname.into()),
            Field::Date(birthday),
            Field::Text(email),
        ]
    }

    fn movie(&self, id: u32) -> Vec<Field> {
        let mut dice = Dice::new(self.seed, 2, id);
        let name = format!(
            "{} {} {}",
            dice.pick(QUALITIES),
            dice.pick(THINGS),
            dice.pick(PLACES)
        );
        vec![
            Field::Int4(int4(id)),
            Field::Text(name),
            Field::Int4(1900 + small(dice.below(124))),
            Field::Int4(45 + small(dice.below(180))),
        ]
    }

    fn session(&self, id: u32) -> Vec<Field> {
        let mut dice = Dice::new(self.seed, 3, id);
        let milliseconds = dice.below(SESSION_SPAN_MS);
        let mut customer = 1 + small(dice.below(u64::from(self.sizes.customers)));
        let mut movie = 1 + small(dice.below(u64::from(self.sizes.movies)));
        match self.broken(id) {
            None => {}
            Some(0) => customer = 0,
            Some(1) => customer = -1,
            Some(2) => movie = 0,
            Some(_) => movie = -1,
        }
        vec![
            Field::Int8(i64::from(id)),
            Field::Timestamp(1000 * i64::try_from(milliseconds).expect("24 years fit")),
            Field::Int4(customer),
            Field::Int4(movie),
        ]
    }

    /// Which of the four ways a session is broken in, if it is.
    fn broken(&self, id: u32) -> Option<u32> {
        let every = BROKEN_EVERY
            .min(self.sizes.sessions / BROKEN_AT_LEAST)
            .max(1);
        id.is_multiple_of(every).then(|| (id / every - 1) % 4)
    }
}

impl Field {
    /// The value as text, in the ISO style for dates.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Field::Int4(value) => value.to_string(),
            Field::Int8(value) => value.to_string(),
            Field::Text(value) => value.clone(),
            Field::Date(days) => (EPOCH + days.days()).to_string(),
            Field::Timestamp(micros) => {
                let at = EPOCH.at(0, 0, 0, 0) + SignedDuration::from_micros(*micros);
                at.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()
            }
        }
    }
}

/// Random numbers for one row: splitmix64, the same on every machine.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, table: u64, id: u32) -> Dice {
        let mut dice = Dice(seed ^ (table << 60));
        Dice(dice.roll() ^ (u64::from(id) << 20))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from 0 to `limit` - 1.
    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn pick(&mut self, words: &[&'static str]) -> &'static str {
        let index = self.below(words.len() as u64);
        words[usize::try_from(index).expect("an index of a slice")]
    }
}

/// splitmix64's finishing step: spreads one number over 64 bits.
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn int4(id: u32) -> i32 {
    i32::try_from(id).expect("every scale has fewer rows")
}

fn small(number: u64) -> i32 {
    i32::try_from(number).expect("below a small limit")
}

const NAMES: &[&str] = &[
    "Ada", "Alan", "Alice", "Boris", "Clara", "Daniel", "Dina", "Edgar", "Elena", "Emil", "Fatima",
    "Felix", "Galina", "Grace", "Hana", "Igor", "Irina", "Ivan", "Jana", "Karel", "Lena", "Lev",
    "Maria", "Mark", "Nadia", "Nikita", "Olga", "Oscar", "Pavel", "Petra", "Roman", "Rosa",
    "Sofia", "Stepan", "Tanya", "Timur", "Vera", "Viktor", "Yan", "Zoya",
];

const SURNAMES: &[&str] = &[
    "Adler", "Baker", "Belov", "Berg", "Cook", "Danilov", "Dvorak", "Egorov", "Fisher", "Fomin",
    "Gray", "Gromov", "Hill", "Horak", "Ivanov", "Jansen", "Karpov", "Keller", "Klein", "Kozlov",
    "Lange", "Lebedev", "Mason", "Meyer", "Morozov", "Novak", "Orlov", "Page", "Petrov", "Popov",
    "Rossi", "Sato", "Sidorov", "Smith", "Sokolov", "Stone", "Titov", "Urban", "Volkov", "Weber",
    "Wolf", "Yakovlev", "Young", "Zaytsev", "Zeman",
];

const QUALITIES: &[&str] = &[
    "Bitter", "Blue", "Broken", "Cold", "Distant", "Empty", "Endless", "Fallen", "First", "Golden",
    "Hidden", "Last", "Lost", "Quiet", "Red", "Second", "Silent", "Slow", "Strange", "White",
];

const THINGS: &[&str] = &[
    "Bridge", "Carnival", "City", "Coast", "Dream", "Garden", "Harbour", "House", "Island",
    "Letter", "Mountain", "Night", "Orchard", "River", "Road", "Sky", "Station", "Summer", "Train",
    "Winter",
];

const PLACES: &[&str] = &[
    "Abroad", "Again", "Below", "Beyond", "East", "Inside", "North", "South", "Twice", "West",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(scale: &str) -> Generator {
        let sizes = SCALES
            .iter()
            .find(|(word, _)| *word == scale)
            .expect("valid")
            .1;
        Generator { seed: 42, sizes }
    }

    fn session(generator: &Generator, id: u32) -> (i64, i32, i32) {
        match generator.session(id)[..] {
            [
                Field::Int8(_),
                Field::Timestamp(at),
                Field::Int4(customer),
                Field::Int4(movie),
            ] => (at, customer, movie),
            _ => panic!("not a session"),
        }
    }

    #[test]
    fn a_row_depends_on_seed_and_id_alone() {
        let one = generator("tiny");
        assert_eq!(one.customer(7), generator("tiny").customer(7));
        assert_ne!(one.customer(7)[1..], one.customer(8)[1..]);
        let other = Generator { seed: 43, ..one };
        assert_ne!(one.session(7), other.session(7));
    }

    #[test]
    fn broken_sessions_have_the_stated_rate() {
        for (scale, broken) in [("tiny", 5), ("ci", 5), ("limit", 15), ("full", 500)] {
            let generator = generator(scale);
            let counted = (1..=generator.sizes.sessions)
                .filter(|id| generator.broken(*id).is_some())
                .count();
            assert_eq!(counted, broken, "{scale}");
        }
    }

    #[test]
    fn broken_sessions_take_all_four_forms() {
        let tiny = generator("tiny");
        let parents = |id| (session(&tiny, id).1, session(&tiny, id).2);
        assert_eq!(parents(1000).0, 0);
        assert_eq!(parents(2000).0, -1);
        assert_eq!(parents(3000).1, 0);
        assert_eq!(parents(4000).1, -1);
    }

    #[test]
    fn whole_sessions_point_to_existing_parents() {
        let tiny = generator("tiny");
        for id in (1..=5000).filter(|id| id % 1000 != 0) {
            let (at, customer, movie) = session(&tiny, id);
            assert!(
                (1..=500).contains(&customer) && (1..=29).contains(&movie),
                "{id}"
            );
            assert!(
                at >= 0 && Field::Timestamp(at).to_text().as_str() < "2024",
                "{id}"
            );
        }
    }

    #[test]
    fn years_and_birthdays_stay_in_range() {
        let ci = generator("ci");
        for id in 1..=290 {
            let Field::Int4(year) = ci.movie(id)[2] else {
                panic!("no year")
            };
            assert!((1900..=2023).contains(&year));
            let birthday = ci.customer(id)[3].to_text();
            assert!(
                birthday.as_str() >= "1940" && birthday.as_str() < "2006",
                "{birthday}"
            );
        }
    }

    #[test]
    fn every_row_has_a_value_for_each_column() {
        let tiny = generator("tiny");
        for table in &TABLES {
            assert_eq!(
                (table.row)(&tiny, 1).len(),
                table.columns.len(),
                "{}",
                table.name
            );
        }
    }

    #[test]
    fn dates_count_from_2000() {
        assert_eq!(Field::Date(0).to_text(), "2000-01-01");
        assert_eq!(Field::Date(FIRST_BIRTHDAY).to_text(), "1940-01-01");
        assert_eq!(
            Field::Timestamp(1_500_000).to_text(),
            "2000-01-01 00:00:01.500000"
        );
    }
}
