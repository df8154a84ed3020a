//! The auth_file (`userlist.txt`).
//!
//! ```text
//! ; a comment
//! "user" "secret" anything
//! "with ""quotes""" "md5..."
//! ```

use super::credential::Credential;
use super::secret::{MAX_PASSWORD_BYTES, Secret};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Longest user name, in bytes (PgBouncer's `MAX_USERNAME` less its zero byte).
pub const MAX_USER_BYTES: usize = 127;

/// The users of an auth_file and their credentials.
///
/// Immutable: share it in an `Arc`, and put [`UserList::reloaded`] in its place
/// when the file has changed.
#[derive(Default)]
pub struct UserList {
    users: HashMap<Box<[u8]>, Arc<Credential>>,
}

impl UserList {
    /// Reads the text of an auth_file.
    ///
    /// A malformed line ends the reading and is reported; what stands before
    /// it holds. Of two lines for one user the later holds.
    pub fn parse(text: &[u8]) -> (Self, Option<UserListError>) {
        let mut list = UserList::default();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some((user, secret))) => {
                    let credential = Credential::new(Secret::parse(&secret));
                    list.users.insert(user.into(), Arc::new(credential));
                }
                Err(fault) => {
                    let line = index + 1;
                    return (list, Some(UserListError { line, fault }));
                }
            }
        }
        (list, None)
    }

    /// Reads a new text as PgBouncer does on reload: users never vanish, and
    /// one that the text does not name keeps its place without a password.
    ///
    /// A user whose secret is unchanged keeps its [`Credential`], and with it
    /// the keys derived from the secret.
    pub fn reloaded(&self, text: &[u8]) -> (Self, Option<UserListError>) {
        let (mut list, error) = Self::parse(text);
        for (user, old) in &self.users {
            let new = match list.users.get(user) {
                Some(new) if new.secret() == old.secret() => old.clone(),
                Some(_) => continue,
                None => Arc::new(Credential::new(Secret::none())),
            };
            list.users.insert(user.clone(), new);
        }
        (list, error)
    }

    /// The credential of `user`, or `None` if the file has never named it.
    pub fn get(&self, user: impl AsRef<[u8]>) -> Option<&Arc<Credential>> {
        self.users.get(user.as_ref())
    }

    /// All users, in no order. A name is any bytes the file held.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<Credential>)> {
        self.users
            .iter()
            .map(|(user, credential)| (&**user, credential))
    }

    /// How many users there are, blanked ones included.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// True if no file has named any user.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

impl fmt::Debug for UserList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserList({} users)", self.users.len())
    }
}

/// Where reading an auth_file stopped, and why. The text begins with
/// PgBouncer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserListError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: UserListFault,
}

/// What is wrong with a line of an auth_file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserListFault {
    /// Not two fields in double quotes.
    Broken,
    /// User name over [`MAX_USER_BYTES`].
    UserTooLong,
    /// Password over [`MAX_PASSWORD_BYTES`].
    PasswordTooLong,
}

impl fmt::Display for UserListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line;
        match self.fault {
            UserListFault::Broken => write!(
                f,
                "broken auth file (line {line}: expected \"user\" \"password\"); this line and all after it are ignored"
            ),
            UserListFault::UserTooLong => write!(
                f,
                "username too long in auth file (line {line}: over {MAX_USER_BYTES} bytes); this line and all after it are ignored"
            ),
            UserListFault::PasswordTooLong => write!(
                f,
                "password too long in auth file (line {line}: over {MAX_PASSWORD_BYTES} bytes); this line and all after it are ignored"
            ),
        }
    }
}

impl std::error::Error for UserListError {}

type Fields = (Vec<u8>, Vec<u8>);

/// A field ends in its own line. PgBouncer would look for a missing quote in
/// the lines below, and take the next user's name for this one's password.
fn parse_line(line: &[u8]) -> Result<Option<Fields>, UserListFault> {
    let line = line.trim_ascii_start();
    match line.first() {
        None | Some(b';') => return Ok(None),
        Some(b'"') => {}
        Some(_) => return Err(UserListFault::Broken),
    }
    let (user, rest) = quoted(line).ok_or(UserListFault::Broken)?;
    if user.len() > MAX_USER_BYTES {
        return Err(UserListFault::UserTooLong);
    }
    let (password, _) = quoted(rest).ok_or(UserListFault::Broken)?;
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(UserListFault::PasswordTooLong);
    }
    Ok(Some((unquoted(user), unquoted(password))))
}

/// The text between the first double quote and the one that ends it, doubled
/// quotes still doubled, and what follows. Lengths are limited in this form,
/// as in PgBouncer.
fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = memchr::memchr(b'"', text)? + 1;
    let mut end = start;
    loop {
        end += memchr::memchr(b'"', &text[end..])?;
        if text.get(end + 1) != Some(&b'"') {
            return Some((&text[start..end], &text[end + 1..]));
        }
        end += 2;
    }
}

fn unquoted(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(byte);
        if byte == b'"' {
            rest.next();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Plaintext;
    use proptest::prelude::*;

    fn plain(list: &UserList, user: &str) -> Option<String> {
        match list.get(user)?.secret() {
            Secret::Plain(password) => {
                Some(String::from_utf8_lossy(password.as_bytes()).into_owned())
            }
            _ => None,
        }
    }

    fn read(text: &str) -> UserList {
        let (list, error) = UserList::parse(text.as_bytes());
        assert_eq!(error, None);
        list
    }

    #[test]
    fn lines_give_users() {
        let list = read(
            "\"a\" \"foo\"\n\n  \t\"b\"   \"bar\" \"more\" rest\r\n;\"c\" \"baz\"\n\"d\" \"\"",
        );
        assert_eq!(list.len(), 3);
        assert_eq!(plain(&list, "a").as_deref(), Some("foo"));
        assert_eq!(plain(&list, "b").as_deref(), Some("bar"));
        assert_eq!(plain(&list, "d").as_deref(), Some(""));
        assert!(list.get("c").is_none());
    }

    #[test]
    fn doubled_quotes_are_one() {
        let list = read("\"a\"\"b\" \"\"\"x\"\"\"\n");
        assert_eq!(plain(&list, "a\"b").as_deref(), Some("\"x\""));
    }

    #[test]
    fn the_later_line_holds() {
        let list = read("\"a\" \"1\"\n\"a\" \"2\"\n");
        assert_eq!(plain(&list, "a").as_deref(), Some("2"));
    }

    #[test]
    fn a_malformed_line_stops_the_file_there() {
        let broken = [
            "a \"b\"",
            "\"a",
            "\"a\"",
            "\"a\" b",
            "\"a\" \"b",
            "\"a\"\"b\"",
            "# c",
        ];
        for line in broken {
            let text = format!("\"first\" \"1\"\n\n{line}\n\"last\" \"2\"\n");
            let (list, error) = UserList::parse(text.as_bytes());
            let expected = UserListError {
                line: 3,
                fault: UserListFault::Broken,
            };
            assert_eq!(error, Some(expected), "{line}");
            assert!(
                list.get("first").is_some() && list.get("last").is_none(),
                "{line}"
            );
        }
    }

    #[test]
    fn lengths_are_limited() {
        let line = |user: usize, password: usize| {
            let text = format!("\"{}\" \"{}\"", "u".repeat(user), "p".repeat(password));
            UserList::parse(text.as_bytes()).1.map(|error| error.fault)
        };
        assert_eq!(line(127, 65_530), None);
        assert_eq!(line(128, 1), Some(UserListFault::UserTooLong));
        assert_eq!(line(1, 65_531), Some(UserListFault::PasswordTooLong));
    }

    #[test]
    fn errors_say_pgbouncers_words_and_the_line() {
        let text = |fault| UserListError { line: 7, fault }.to_string();
        assert!(text(UserListFault::Broken).starts_with("broken auth file (line 7"));
        assert!(
            text(UserListFault::UserTooLong).starts_with("username too long in auth file (line 7")
        );
        assert!(
            text(UserListFault::PasswordTooLong)
                .starts_with("password too long in auth file (line 7")
        );
    }

    #[test]
    fn reload_blanks_users_that_are_gone() {
        let old = read("\"a\" \"1\"\n\"b\" \"2\"\n");
        let (new, error) = old.reloaded(b"\"b\" \"3\"\n\"c\" \"4\"\n");
        assert_eq!(error, None);
        assert!(new.get("a").expect("kept").secret().is_none());
        assert_eq!(plain(&new, "b").as_deref(), Some("3"));
        assert_eq!(plain(&new, "c").as_deref(), Some("4"));
    }

    #[test]
    fn reload_keeps_the_credential_of_an_unchanged_secret() {
        let old = read("\"a\" \"1\"\n\"b\" \"2\"\n");
        let (new, _) = old.reloaded(b"\"a\" \"1\"\n\"b\" \"3\"\n");
        let same = |user| Arc::ptr_eq(old.get(user).expect("old"), new.get(user).expect("new"));
        assert!(same("a"));
        assert!(!same("b"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let list = read("\"a\" \"hunter2\"\n");
        assert_eq!(format!("{list:?}"), "UserList(1 users)");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(text: Vec<u8>) {
            let _ = UserList::parse(&text);
        }

        #[test]
        fn what_is_quoted_is_read_back(user in "[^\n\0]{1,20}", password in "[^\n\0]{1,20}") {
            let quote = |text: &str| text.replace('"', "\"\"");
            let text = format!("\"{}\" \"{}\"\n", quote(&user), quote(&password));
            let (list, error) = UserList::parse(text.as_bytes());
            prop_assert_eq!(error, None);
            let secret = Secret::Plain(Plaintext::new(password.as_bytes()));
            prop_assert_eq!(list.get(&user).expect("listed").secret(), &secret);
        }
    }
}
