//! The passwords of the demo: made once, kept in a file psql can use.

use std::fmt::Write as _;

/// The users that have one.
const USERS: [&str; 3] = ["postgres", "bingo", "admin"];

/// Random bytes in a password.
const STRENGTH: usize = 16;

/// A password for each user.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets([String; 3]);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Secrets {
    /// New ones.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn generate() -> Result<Secrets, String> {
        let mut bytes = [0; USERS.len() * STRENGTH];
        getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
        let (words, _) = bytes.as_chunks::<STRENGTH>();
        let word = |place: usize| hex(&words[place]);
        Ok(Secrets([word(0), word(1), word(2)]))
    }

    /// Those of a file [`Secrets::to_pgpass`] wrote; `None` if it is not whole.
    pub fn from_pgpass(text: &str) -> Option<Secrets> {
        let of = |user: &str| {
            let start = format!("*:*:*:{user}:");
            let word = text.lines().find_map(|line| line.strip_prefix(&start))?;
            (!word.is_empty()).then(|| word.to_owned())
        };
        Some(Secrets([of(USERS[0])?, of(USERS[1])?, of(USERS[2])?]))
    }

    /// In the form of libpq's password file, for any host, port and database.
    pub fn to_pgpass(&self) -> String {
        self.rows().fold(String::new(), |mut text, (user, word)| {
            writeln!(text, "*:*:*:{user}:{word}").expect("a String takes everything");
            text
        })
    }

    /// In the form of PgBouncer's `auth_file`, without the superuser.
    pub fn to_userlist(&self) -> String {
        self.rows().filter(|&(user, _)| user != "postgres").fold(
            String::new(),
            |mut text, (user, word)| {
                writeln!(text, "\"{user}\" \"{word}\"").expect("a String takes everything");
                text
            },
        )
    }

    /// Of the superuser of the private PostgreSQL.
    pub fn postgres(&self) -> &str {
        &self.0[0]
    }

    /// Of the application's user.
    pub fn bingo(&self) -> &str {
        &self.0[1]
    }

    fn rows(&self) -> impl Iterator<Item = (&'static str, &str)> {
        USERS.into_iter().zip(self.0.iter().map(String::as_str))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes everything");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        Secrets(["a", "b", "c"].map(str::to_owned))
    }

    #[test]
    fn a_password_file_is_read_back() {
        let text = secrets().to_pgpass();
        assert_eq!(text, "*:*:*:postgres:a\n*:*:*:bingo:b\n*:*:*:admin:c\n");
        assert_eq!(Secrets::from_pgpass(&text), Some(secrets()));
    }

    #[test]
    fn a_cut_password_file_is_none() {
        assert_eq!(Secrets::from_pgpass("*:*:*:postgres:a\n*:*:*:bingo:"), None);
    }

    #[test]
    fn the_pooler_does_not_know_the_superuser() {
        assert_eq!(
            secrets().to_userlist(),
            "\"bingo\" \"b\"\n\"admin\" \"c\"\n"
        );
    }

    #[test]
    fn each_password_is_another() {
        let Secrets([a, b, c]) = Secrets::generate().expect("random bytes");
        assert!(a != b && b != c && a.len() == 2 * STRENGTH);
    }
}
