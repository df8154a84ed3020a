//! `pgbouncer.ini`: PgBouncer's grammar, with pgweir's sections beside its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::assembly::Assembly;
use super::connect_string;
use super::error::{Error, Place, Problem};
use super::ini_scanner::{Item, Scanner};
use super::load::{Loaded, read};
use super::notation::{is_sloppy, lenient, native};
use super::title::Title;

/// How deep files may include each other.
const MAX_INCLUDES: usize = 10;

/// What a database given twice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duplicates {
    /// A warning; the later one holds, as in PgBouncer.
    Replace,
    /// An error.
    Refuse,
}

/// Reads an ini file and what it includes.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn load(path: &Path, duplicates: Duplicates) -> Result<Loaded, Error> {
    read_bytes(&read(path)?, path, duplicates)
}

/// Reads what an ini file of that name holds.
///
/// # Errors
/// As [`load`].
pub(super) fn read_bytes(
    bytes: &[u8],
    path: &Path,
    duplicates: Duplicates,
) -> Result<Loaded, Error> {
    let mut reader = Reader::new(path, duplicates);
    reader.text(bytes, path, 0)?;
    reader.finish()
}

/// What goes from one line to the next.
struct Reader {
    path: PathBuf,
    assembly: Assembly,
    section: Option<Title>,
    /// Where each setting was given, to tell of those given twice.
    given: BTreeMap<(Title, String), Place>,
    duplicates: Duplicates,
}

impl Reader {
    fn new(path: &Path, duplicates: Duplicates) -> Self {
        Self {
            path: path.to_owned(),
            assembly: Assembly::new(path),
            section: None,
            given: BTreeMap::new(),
            duplicates,
        }
    }

    fn finish(self) -> Result<Loaded, Error> {
        if self.assembly.opened(&Title::Pgbouncer).is_none() {
            return Err(Error::new(
                Problem::MainSectionMissing,
                Place::file(&self.path),
            ));
        }
        self.assembly.finish()
    }

    fn include(&mut self, path: &Path, depth: usize) -> Result<(), Error> {
        self.text(&read(path)?, path, depth)
    }

    fn text(&mut self, bytes: &[u8], path: &Path, depth: usize) -> Result<(), Error> {
        let mut scanner = Scanner::new(bytes);
        loop {
            let item = scanner.next();
            let place = Place {
                file: path.to_owned(),
                line: scanner.item_line,
                column: 0,
            };
            match item.map_err(|problem| Error::new(problem, place.clone()))? {
                None => return Ok(()),
                Some(Item::Include(_)) if depth >= MAX_INCLUDES => {
                    return Err(Error::new(Problem::IncludedTooDeep, place));
                }
                Some(Item::Include(file)) => {
                    self.include(Path::new(file), depth + 1)
                        .map_err(|mut error| {
                            error.included_from.push(place);
                            error
                        })?;
                }
                Some(Item::Section(name)) => self.open(name, &place)?,
                Some(Item::Setting(key, value)) => {
                    self.setting(key, value, &place).map_err(|mut error| {
                        error.line = Some((key.to_owned(), self.shown(&error, value)));
                        error
                    })?;
                }
            }
        }
    }

    /// The value to name in PgBouncer's message. Entries may hold passwords,
    /// and so may a setting nobody knows.
    fn shown(&self, error: &Error, value: &str) -> String {
        let is_plain = self.section == Some(Title::Pgbouncer)
            && matches!(error.problem, Problem::BadValue { .. });
        if is_plain {
            value.to_owned()
        } else {
            "***".to_owned()
        }
    }

    fn open(&mut self, name: &str, place: &Place) -> Result<(), Error> {
        let title = Title::parse(name).ok_or_else(|| {
            let suggestion = Title::closest(name);
            Error::new(Problem::UnknownSection { suggestion }, place.clone()).about(name, "")
        })?;
        if title == Title::Pgbouncer
            && let Some(first) = self.assembly.opened(&title).cloned()
        {
            let what =
                format!("a second [pgbouncer] discards the settings of the first, at {first}");
            self.assembly.warn(place, what, "Join the two sections.");
            self.given
                .retain(|(section, _), _| *section != Title::Pgbouncer);
        }
        self.assembly.open(&title, place)?;
        self.section = Some(title);
        Ok(())
    }

    fn setting(&mut self, key: &str, value: &str, place: &Place) -> Result<(), Error> {
        let Some(section) = self.section.clone() else {
            return Err(Error::new(Problem::NoSection, place.clone()).about("", key));
        };
        self.note_if_given_before(&section, key, place)?;
        match section.entry(key) {
            Some(title) => self.entry(&title, key, value, place),
            None => self.single(&section, key, value, place),
        }
    }

    fn note_if_given_before(
        &mut self,
        section: &Title,
        key: &str,
        place: &Place,
    ) -> Result<(), Error> {
        let first = self
            .given
            .insert((section.clone(), key.to_owned()), place.clone());
        let Some(first) = first else { return Ok(()) };
        if *section == Title::Databases && self.duplicates == Duplicates::Refuse {
            let problem = Problem::Duplicate(first);
            return Err(Error::new(problem, place.clone()).about(section.to_string(), key));
        }
        // An included file that sets again what came before it is meant to.
        if first.file == place.file || *section == Title::Databases {
            let what = format!(
                "\"{key}\" in [{section}] is given twice; this one holds, not the one at {first}"
            );
            self.assembly.warn(place, what, "Keep one of the two.");
        }
        Ok(())
    }

    /// A line `NAME = key=value ...`.
    fn entry(
        &mut self,
        title: &Title,
        name: &str,
        value: &str,
        place: &Place,
    ) -> Result<(), Error> {
        self.assembly.open(title, place)?;
        let pairs = connect_string::pairs(value).map_err(|expected| {
            Error::new(Problem::EntrySyntax(expected), place.clone()).about(title.to_string(), name)
        })?;
        for (key, value) in pairs {
            if title.is_pgbouncers() {
                self.pair(title, &key, &value, place)?;
            } else {
                self.single(title, &key, &value, place)?;
            }
        }
        self.assembly.complete(title, place)
    }

    /// One `key=value` of a connect string, its numbers read as PgBouncer does.
    fn pair(&mut self, title: &Title, key: &str, value: &str, place: &Place) -> Result<(), Error> {
        let kind = self.assembly.kind(title, key, place)?;
        let text = lenient(kind, value);
        self.assembly.set(title, key, &text, value, place)?;
        if is_sloppy(kind, value) {
            let what =
                format!("\"{key}\" in [{title}] is not a whole number and is read as {text}");
            self.assembly.warn(place, what, "Write a whole number.");
        }
        Ok(())
    }

    /// A line `key = value`.
    fn single(
        &mut self,
        title: &Title,
        key: &str,
        value: &str,
        place: &Place,
    ) -> Result<(), Error> {
        let kind = self.assembly.kind(title, key, place)?;
        if title.is_pgbouncers() {
            return self.assembly.set(title, key, value, value, place);
        }
        // A unit that makes no sense is the value's own fault: let it fail as it is.
        let text = native(kind, value).unwrap_or(value.into());
        self.assembly.set(title, key, &text, value, place)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{AuthType, Config, PoolMode};

    fn read_text(text: &str) -> Result<Loaded, Error> {
        read_bytes(text.as_bytes(), Path::new("a.ini"), Duplicates::Replace)
    }

    fn config(text: &str) -> Config {
        read_text(text).expect("a good file").config
    }

    fn messages(text: &str) -> Vec<String> {
        read_text(text)
            .expect_err("a bad file")
            .pgbouncer_messages()
    }

    #[test]
    fn settings_are_trimmed_and_keep_comment_signs() {
        let config = config(
            "; a comment\n# another\n[pgbouncer]\n  auth_query =  select 1; -- # x  \r\n\
             auth_type=SCRAM-SHA-256\nlisten_addr =\n",
        );
        assert_eq!(config.pgbouncer.auth_query, "select 1; -- # x");
        assert_eq!(config.pgbouncer.auth_type, AuthType::ScramSha256);
        assert_eq!(config.pgbouncer.listen_addr, "");
    }

    #[test]
    fn a_setting_may_follow_its_section_on_the_line() {
        assert_eq!(
            config("[pgbouncer] listen_port = 0x10")
                .pgbouncer
                .listen_port,
            16
        );
    }

    #[test]
    fn a_database_is_a_connect_string() {
        let config = config(
            "[databases]\n'my db' = host = h1,h2 port=5433 password='it''s' \
             pool_mode=Transaction reserve_pool=3\n* = host=/run\n[pgbouncer]\n",
        );
        let database = &config.databases["my db"];
        assert_eq!(database.host.as_deref(), Some("h1,h2"));
        assert_eq!(database.port, 5433);
        assert_eq!(
            database.password.as_ref().map(|it| it.0.as_str()),
            Some("it's")
        );
        assert_eq!(database.pool_mode, Some(PoolMode::Transaction));
        assert_eq!(database.reserve_pool_size, Some(3));
        assert_eq!(
            config.autodb.and_then(|it| it.host).as_deref(),
            Some("/run")
        );
        assert_eq!(config.databases.len(), 1);
    }

    #[test]
    fn overrides_that_say_nothing_leave_the_global_value() {
        let config = config(
            "[databases]\nd = pool_size=-1 server_lifetime=0 max_db_connections=0 \
             query_wait_timeout=0 min_pool_size=0\n[users]\nu = query_timeout=0 pool_size=0\n\
             [pgbouncer]\n",
        );
        let database = &config.databases["d"];
        assert_eq!(
            (database.pool_size, database.min_pool_size),
            (None, Some(0))
        );
        assert_eq!(
            (database.server_lifetime, database.max_db_connections),
            (None, None)
        );
        assert_eq!(database.query_wait_timeout, Some(Duration::ZERO));
        assert_eq!(
            (config.users["u"].query_timeout, config.users["u"].pool_size),
            (None, Some(0))
        );
    }

    #[test]
    fn a_number_with_garbage_in_a_connect_string_is_read_and_warned_of() {
        let loaded = read_text("[databases]\nd = pool_size=20x\n[pgbouncer]\n").expect("good");
        assert_eq!(loaded.config.databases["d"].pool_size, Some(20));
        assert_eq!(loaded.warnings.len(), 1);
        assert_eq!(loaded.warnings[0].place.line, 2);
    }

    #[test]
    fn a_second_pgbouncer_section_discards_the_first_except_what_has_no_default() {
        let loaded = read_text(
            "[pgbouncer]\nlisten_port = 1\nauth_user = u\n[pgbouncer]\nmax_client_conn = 5\n",
        )
        .expect("good");
        assert_eq!(loaded.config.pgbouncer.listen_port, 6432);
        assert_eq!(loaded.config.pgbouncer.max_client_conn, 5);
        assert_eq!(loaded.config.pgbouncer.auth_user.as_deref(), Some("u"));
        assert!(
            loaded.warnings[0].what.contains("discards"),
            "{}",
            loaded.warnings[0].what
        );
        let given = ["auth_user", "max_client_conn", "listen_port"].map(|name| loaded.gives(name));
        assert_eq!(given, [true, true, false]);
    }

    #[test]
    fn the_later_of_two_databases_holds_with_a_warning() {
        let text = "[databases]\nd = host=a pool_size=1\n\nd = host=b\n[pgbouncer]\n";
        let loaded = read_text(text).expect("good");
        assert_eq!(loaded.config.databases["d"].host.as_deref(), Some("b"));
        assert_eq!(loaded.config.databases["d"].pool_size, None);
        let warning = &loaded.warnings[0];
        assert_eq!(warning.place.line, 4);
        assert!(warning.what.contains("a.ini, line 2"), "{}", warning.what);
    }

    #[test]
    fn a_database_given_twice_can_be_refused() {
        let text = b"[databases]\nd = host=a\nd = host=b\n[pgbouncer]\n";
        let error = read_bytes(text, Path::new("a.ini"), Duplicates::Refuse).expect_err("twice");
        let first = Place {
            file: "a.ini".into(),
            line: 2,
            column: 0,
        };
        assert_eq!(
            (&error.problem, error.place.line),
            (&Problem::Duplicate(first), 3)
        );
        assert_eq!(
            error.summary(),
            "\"d\" in [databases] is given twice, first at line 2"
        );
    }

    #[test]
    fn native_sections_stand_beside_pgbouncers() {
        let config = config(
            "[pgbouncer]\n[metrics]\n[queries]\nenabled = no\n[prepare]\nhost = h\nuser = u\n\
             seed = bingo 'a b'\nseed_env = A=1 'B=2 3'\nlock_timeout = 250ms\n\
             [balancer]\nlisten = 127.0.0.1:80, [::1]:80\nmax_body = 1MiB\n\
             [balancer.nodes]\na = address=h:1\n[balancer.nodes.b]\naddress = h:2\n\
             [balancer.routes]\nping = path=/ping timeout=2s methods=GET,HEAD\n\
             [balancer.health]\nrise = 3\n",
        );
        assert_eq!(config.metrics.listen.map(|it| it.port()), Some(9127));
        assert!(!config.queries.enabled);
        let prepare = config.prepare.expect("is there");
        assert_eq!(prepare.seed, ["bingo", "a b"]);
        assert_eq!(prepare.seed_env["B"], "2 3");
        assert_eq!(prepare.lock_timeout, Duration::from_millis(250));
        let balancer = config.balancer.expect("is there");
        assert_eq!(balancer.listen.len(), 2);
        assert_eq!(balancer.max_body, 1 << 20);
        assert_eq!(balancer.nodes["a"].address, "h:1");
        assert_eq!(balancer.nodes["b"].address, "h:2");
        assert_eq!(balancer.routes["ping"].methods, ["GET", "HEAD"]);
        assert_eq!(balancer.health.rise, 3);
    }

    #[test]
    fn without_a_metrics_section_there_is_no_listener_for_it() {
        assert_eq!(config("[pgbouncer]\n").metrics.listen, None);
    }

    #[test]
    fn errors_are_worded_as_pgbouncers() {
        for (text, first, parameter) in [
            (
                "[pgbouncer]\nlisten_prt = 1",
                "unknown parameter: pgbouncer/listen_prt",
                "listen_prt",
            ),
            (
                "[databases]\nd = host=\n",
                "syntax error in connection string",
                "d",
            ),
            (
                "[users]\nu = pool_mode\n",
                "syntax error in user settings",
                "u",
            ),
            (
                "[databases]\nd = hst=a\n",
                "unrecognized connection parameter: hst",
                "d",
            ),
            (
                "[users]\nu = pool_mod=a\n",
                "unrecognized user parameter: pool_mod",
                "u",
            ),
            ("[databases]\nd = port=x\n", "invalid port: x", "d"),
            (
                "[databases]\nd = pool_mode=x\n",
                "invalid pool mode: x",
                "d",
            ),
            (
                "[databases]\npgbouncer =\n",
                "database name \"pgbouncer\" is reserved",
                "pgbouncer",
            ),
            (
                "[peers]\n0 = host=a\n",
                "ids of peers must be a number larger than 0 and at most 65536",
                "0",
            ),
            (
                "[peers]\n1 = port=1\n",
                "host was not provided for peer 1",
                "1",
            ),
            (
                ";\na = 1\n",
                "load_init_file: value without section: a",
                "a",
            ),
        ] {
            let second = format!(
                "invalid value \"***\" for parameter {parameter} in configuration (a.ini:2)"
            );
            assert_eq!(messages(text), [first.to_owned(), second], "{text}");
        }
        for (text, only) in [
            (
                "[pgbouncer]\nlisten_port\n",
                "syntax error in configuration (a.ini:2), stopping loading",
            ),
            (
                "[pgbouncer\n",
                "syntax error in configuration (a.ini:1), stopping loading",
            ),
            (
                "[databses]\n",
                "invalid section \"databses\" in configuration (a.ini:1)",
            ),
            (
                "[pgbouncer]\nlisten_port = x\n",
                "invalid value \"x\" for parameter listen_port in configuration (a.ini:2)",
            ),
            ("", "load_init_file: main section missing from config file"),
        ] {
            assert_eq!(messages(text), [only], "{text}");
        }
        assert_eq!(
            messages("[pgbouncer]\nauth_dbname = pgbouncer\n")[0],
            "cannot use the reserved \"pgbouncer\" database as an auth_dbname",
        );
    }

    #[test]
    fn an_error_names_file_line_setting_suggestion_and_remedy() {
        let error = read_text("[pgbouncer]\n\nmax_client_con = 5\n").expect_err("bad");
        assert_eq!(
            error.to_string(),
            "unknown setting \"max_client_con\" in [pgbouncer]\n  \
             at: a.ini, line 3, section [pgbouncer], setting max_client_con\n  \
             did you mean: max_client_conn\n  \
             remedy: Write \"max_client_conn\" if that was meant, or remove it."
        );
    }

    #[test]
    fn passwords_are_in_no_error() {
        for text in [
            "[databases]\nd = password=secret port=x\n",
            "[databases]\nd = password='secret\n",
            "[databases]\nd = passwrd=secret\n",
            "[pgbouncer]\npassword = secret\n",
            "[pgbouncer]\n[prepare]\nseed_env = secret\n",
        ] {
            let error = read_text(text).expect_err("bad");
            let all = format!("{error}{error:?}{:?}", error.pgbouncer_messages());
            assert!(!all.contains("secret"), "{all}");
        }
    }

    #[test]
    fn a_key_of_another_section_is_sent_there() {
        let error = read_text("[pgbouncer]\nlog_format = json\n").expect_err("bad");
        assert_eq!(error.remedy(), "Move it to [pgweir].");
    }

    #[test]
    fn what_a_section_needs_is_asked_for() {
        for (text, key) in [
            ("[pgbouncer]\n[prepare]\nhost = h\n", "user"),
            ("[pgbouncer]\n[balancer]\nlisten = 127.0.0.1:1\n", "nodes"),
            ("[pgbouncer]\n[balancer.nodes]\na = address=h:1\n", "listen"),
            (
                "[pgbouncer]\n[balancer.routes.a]\nreplay = never\n",
                "listen",
            ),
            ("[pgbouncer]\n[balancer.nodes]\na =\n", "address"),
        ] {
            let error = read_text(text).expect_err("incomplete");
            assert_eq!(
                (&error.problem, error.key.as_str()),
                (&Problem::MissingKey, key),
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_that_is_not_plain_needs_quotes() {
        assert!(read_text("[databases]\nmy/db = host=a\n[pgbouncer]\n").is_err());
        let config = config("[databases]\n'my/db' = host=a\n[pgbouncer]\n");
        assert!(config.databases.contains_key("my/db"));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_an_error_outside_comments() {
        let read = |bytes: &[u8]| read_bytes(bytes, Path::new("a.ini"), Duplicates::Replace);
        assert!(read(b"; \xff\n[pgbouncer]\n").is_ok());
        let error = read(b"[pgbouncer]\nuser = \xff\n").expect_err("bad");
        assert_eq!((&error.problem, error.place.line), (&Problem::Encoding, 2));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_bytes(&bytes, Path::new("a.ini"), Duplicates::Refuse);
        }

        #[test]
        fn no_lines_make_it_panic(lines in proptest::collection::vec(
            prop_oneof![
                "\\[(pgbouncer|databases|users|peers|prepare|balancer\\.nodes)\\]",
                "'?[a-z_*]{0,12}'? ?= ?[a-z0-9=' \t]{0,20}",
                "(port|pool_size|host) ?= ?\\PC{0,20}",
                "\\PC{0,20}",
            ],
            0..12,
        )) {
            // An include would read whatever file it names.
            let text = lines.join("\n").replace("%include", "");
            let _ = read_text(&text);
        }

        #[test]
        fn any_line_of_text_is_a_value(value in "\\PC{0,40}") {
            let config = config(&format!("[pgbouncer]\nauth_query = {value}\n"));
            prop_assert_eq!(config.pgbouncer.auth_query, value.trim_matches(' '));
        }
    }
}
