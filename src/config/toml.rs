//! `pgweir.toml`: the same settings in TOML.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ::toml::Spanned;
use ::toml::de::{DeArray, DeString, DeTable, DeValue};

use super::assembly::Assembly;
use super::connect_string;
use super::error::{Error, Place, Problem};
use super::kind::Kind;
use super::load::{Loaded, read};
use super::notation::{lenient, native};
use super::title::Title;
use super::value::{Value, ValueError, is_c_space};

/// Longest excerpt of the file in an error, in characters.
const MAX_EXCERPT: usize = 60;

/// Reads a TOML file.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn load(path: &Path) -> Result<Loaded, Error> {
    read_bytes(&read(path)?, path)
}

/// Reads what a TOML file of that name holds.
///
/// # Errors
/// As [`load`].
pub(super) fn read_bytes(bytes: &[u8], path: &Path) -> Result<Loaded, Error> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let place = place_in(bytes, error.valid_up_to(), path);
        Error::new(Problem::Encoding, place)
    })?;
    let document = DeTable::parse(text).map_err(|error| syntax_error(text, path, &error))?;
    let mut reader = Reader {
        text,
        path,
        assembly: Assembly::new(path),
    };
    reader.document(document.get_ref())?;
    reader.assembly.finish()
}

struct Reader<'t> {
    text: &'t str,
    path: &'t Path,
    assembly: Assembly,
}

type Key<'t> = Spanned<DeString<'t>>;
type Item<'t> = Spanned<DeValue<'t>>;

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) -> Result<(), Error> {
        let file = Place::file(self.path);
        self.assembly.open(&Title::Pgbouncer, &file)?;
        // Whoever writes pgweir.toml wants pgweir's admin port.
        self.assembly.open(&Title::Metrics, &file)?;
        for (key, value) in in_order(document) {
            let name = key.get_ref();
            let place = self.place(key.span());
            // A dot can only be part of a quoted key here.
            match Title::parse(name).filter(|_| !name.contains('.')) {
                Some(title) => self.section(&title, &place, value)?,
                None if value.get_ref().is_table() => {
                    let suggestion = Title::closest(name);
                    let problem = Problem::UnknownSection { suggestion };
                    return Err(Error::new(problem, place).about(name.as_ref(), ""));
                }
                None => {
                    return Err(Error::new(Problem::NoSection, place).about("", name.as_ref()));
                }
            }
        }
        Ok(())
    }

    fn section(&mut self, title: &Title, place: &Place, value: &Item<'_>) -> Result<(), Error> {
        let table = self.table(title, value)?;
        self.assembly.open(title, place)?;
        for (key, value) in in_order(table) {
            let place = self.place(key.span());
            match (title.entry(key.get_ref()), title.below(key.get_ref())) {
                (Some(entry), _) => self.entry(&entry, &place, value)?,
                (None, Some(below)) => self.section(&below, &place, value)?,
                (None, None) => self.setting(title, key, value)?,
            }
        }
        Ok(())
    }

    /// A table of settings, or a connect string as the ini would have it.
    fn entry(&mut self, title: &Title, place: &Place, value: &Item<'_>) -> Result<(), Error> {
        let DeValue::String(text) = value.get_ref() else {
            self.section(title, place, value)?;
            return self.assembly.complete(title, place);
        };
        self.assembly.open(title, place)?;
        let pairs = connect_string::pairs(text).map_err(|expected| {
            Error::new(Problem::EntrySyntax(expected), place.clone())
                .about(title.to_string(), title.name())
        })?;
        for (key, value) in pairs {
            let kind = self.assembly.kind(title, &key, place)?;
            let text = lenient(kind, &value);
            self.assembly.set(title, &key, &text, &value, place)?;
        }
        self.assembly.complete(title, place)
    }

    fn table<'v, 't>(&self, title: &Title, value: &'v Item<'t>) -> Result<&'v DeTable<'t>, Error> {
        value.get_ref().as_table().ok_or_else(|| {
            let problem = Problem::Syntax(format!("[{title}] has to be a table"));
            Error::new(problem, self.place(value.span())).about(title.to_string(), "")
        })
    }

    fn setting(&mut self, title: &Title, key: &Key<'_>, value: &Item<'_>) -> Result<(), Error> {
        let place = self.place(key.span());
        let kind = self.assembly.kind(title, key.get_ref(), &place)?;
        let place = self.place(value.span());
        let shown = self.excerpt(value.span());
        // A value of another type cannot be the setting's, whatever its text:
        // the empty text under its name fails for what is not a text.
        let text = text_of(kind, value.get_ref()).map_err(|ValueError| {
            Assembly::bad_value(kind, title, key.get_ref(), &shown, &place)
        })?;
        self.assembly
            .set(title, key.get_ref(), &text, &shown, &place)
    }

    fn excerpt(&self, span: Range<usize>) -> String {
        let text = self.text.get(span).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let line = line
            .strip_prefix('"')
            .and_then(|it| it.strip_suffix('"'))
            .unwrap_or(line);
        line.chars().take(MAX_EXCERPT).collect()
    }

    fn place(&self, span: Range<usize>) -> Place {
        place_in(self.text.as_bytes(), span.start, self.path)
    }
}

/// A table's entries in the order of the file, so that the first error comes
/// first.
fn in_order<'v, 't>(table: &'v DeTable<'t>) -> Vec<(&'v Key<'t>, &'v Item<'t>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// PgBouncer's text for a TOML value.
fn text_of<'v>(kind: Kind, value: &'v DeValue<'_>) -> Result<Cow<'v, str>, ValueError> {
    match (value, kind) {
        (DeValue::String(text), _) => native(kind, text),
        (DeValue::Boolean(on), Kind::Bool) => Ok(if *on { "1".into() } else { "0".into() }),
        (
            DeValue::Integer(number),
            Kind::Int { .. } | Kind::FileMode | Kind::Bool | Kind::Time | Kind::Size,
        ) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            Ok(number.map_err(|_| ValueError)?.to_string().into())
        }
        (DeValue::Float(number), Kind::Time) => Ok(number.as_str().into()),
        (DeValue::Array(items), Kind::List | Kind::Addresses | Kind::Networks) => {
            list(items).map(Cow::Owned)
        }
        (DeValue::Array(items), Kind::Words) => {
            let words: Option<Vec<String>> = items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect();
            words
                .and_then(|words| words.show())
                .map(Cow::Owned)
                .ok_or(ValueError)
        }
        (DeValue::Table(table), Kind::Environment) => environment(table).map(Cow::Owned),
        _ => Err(ValueError),
    }
}

fn list(items: &DeArray<'_>) -> Result<String, ValueError> {
    let word = |item: &Item<'_>| {
        let word = item.get_ref().as_str()?;
        let is_word = !word.is_empty() && !word.contains(|c| is_c_space(c) || c == ',');
        is_word.then(|| word.to_owned())
    };
    let words: Option<Vec<String>> = items.iter().map(word).collect();
    Ok(words.ok_or(ValueError)?.join(","))
}

fn environment(table: &DeTable<'_>) -> Result<String, ValueError> {
    let mut variables = BTreeMap::new();
    for (name, value) in table {
        let name = name.get_ref();
        if name.is_empty() || name.contains('=') {
            return Err(ValueError);
        }
        let value = value.get_ref().as_str().ok_or(ValueError)?;
        variables.insert(name.clone().into_owned(), value.to_owned());
    }
    variables.show().ok_or(ValueError)
}

fn syntax_error(text: &str, path: &Path, error: &::toml::de::Error) -> Error {
    let span = error.span().unwrap_or_default();
    let place = place_in(text.as_bytes(), span.start, path);
    if error.message().starts_with("duplicate key")
        && let Some((key, line)) = first_of_two(text, place.line)
    {
        let first = Place {
            line,
            column: 0,
            ..place.clone()
        };
        let (section, key) = match key.strip_prefix('[') {
            Some(title) => (
                title.trim_matches(['[', ']', ' ']).to_owned(),
                String::new(),
            ),
            None => (section_at(text, place.line), key.to_owned()),
        };
        return Error::new(Problem::Duplicate(first), place).about(section, key);
    }
    Error::new(Problem::Syntax(error.message().to_owned()), place)
}

/// The earlier line that gives the name of this line, and what it names: a
/// header with its bracket, or the key of a setting.
fn first_of_two(text: &str, line: usize) -> Option<(&str, usize)> {
    let name = |line: &'_ str| -> Option<(usize, usize)> {
        let end = if line.trim_start().starts_with('[') {
            line.find(']')? + 1
        } else {
            line.find('=')?
        };
        let start = line.len() - line.trim_start().len();
        (start < end).then_some((start, end))
    };
    let named =
        |line: &'_ str| name(line).map(|(start, end)| line[start..end].trim_end().to_owned());
    let lines: Vec<&str> = text.lines().collect();
    let this = lines.get(line.checked_sub(1)?)?;
    let (start, end) = name(this)?;
    let key = this[start..end].trim_end();
    let before = &lines[..line - 1];
    let found = before
        .iter()
        .rposition(|line| named(line).as_deref() == Some(key))?;
    Some((key, found + 1))
}

/// The header above a line.
fn section_at(text: &str, line: usize) -> String {
    let above: Vec<&str> = text.lines().take(line).collect();
    let header = above
        .iter()
        .rev()
        .find_map(|line| line.trim().strip_prefix('['));
    header
        .and_then(|header| header.split(']').next())
        .unwrap_or_default()
        .to_owned()
}

/// Line and column of a byte.
fn place_in(text: &[u8], at: usize, path: &Path) -> Place {
    let before = &text[..at.min(text.len())];
    let start = before
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |newline| newline + 1);
    Place {
        file: path.to_owned(),
        line: 1 + before.iter().filter(|b| **b == b'\n').count(),
        // Bytes that continue a UTF-8 character are no columns.
        column: 1 + before[start..]
            .iter()
            .filter(|b| **b & 0xC0 != 0x80)
            .count(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, PoolMode, Replay};

    fn read_text(text: &str) -> Result<Loaded, Error> {
        read_bytes(text.as_bytes(), Path::new("a.toml"))
    }

    fn config(text: &str) -> Config {
        read_text(text).expect("a good file").config
    }

    fn error(text: &str) -> Error {
        read_text(text).expect_err("a bad file")
    }

    #[test]
    fn an_empty_file_is_the_defaults_with_the_admin_port() {
        let config = config("");
        assert_eq!(config.pgbouncer, crate::config::Pgbouncer::default());
        assert_eq!(config.metrics.listen, "127.0.0.1:9127".parse().ok());
        assert_eq!((config.prepare, config.balancer), (None, None));
    }

    #[test]
    fn an_empty_listen_turns_the_admin_port_off() {
        assert_eq!(config("[metrics]\nlisten = \"\"\n").metrics.listen, None);
    }

    #[test]
    fn settings_take_toml_values() {
        let settings = config(
            "[pgbouncer]\nadmin_users = [\"a\", \"b\"]\nlog_stats = false\nsyslog = 1\n\
             listen_port = 0x10\nquery_timeout = 1.5\nserver_lifetime = \"10min\"\n\
             suspend_timeout = 7\npool_mode = \"Transaction\"\nunix_socket_mode = \"0700\"\n",
        )
        .pgbouncer;
        assert_eq!(settings.admin_users, "a,b");
        assert_eq!((settings.log_stats, settings.syslog), (false, true));
        assert_eq!(
            (settings.listen_port, settings.unix_socket_mode),
            (16, 0o700)
        );
        assert_eq!(settings.query_timeout, Duration::from_millis(1500));
        assert_eq!(settings.server_lifetime, Duration::from_secs(600));
        assert_eq!(settings.suspend_timeout, Duration::from_secs(7));
        assert_eq!(settings.pool_mode, PoolMode::Transaction);
    }

    #[test]
    fn databases_are_tables_or_connect_strings() {
        let config = config(
            "[databases]\n\"my db\" = \"host=h port=5433\"\nb.host = [\"h1\", \"h2\"]\n\
             [databases.\"*\"]\npool_size = -1\nserver_lifetime = \"1h\"\n[peers.1]\nhost = \"h\"\n",
        );
        assert_eq!(config.databases["my db"].port, 5433);
        assert_eq!(config.databases["b"].host.as_deref(), Some("h1,h2"));
        let autodb = config.autodb.expect("is there");
        assert_eq!(autodb.pool_size, None);
        assert_eq!(autodb.server_lifetime, Some(Duration::from_secs(3600)));
        assert_eq!(config.peers[&1].port, 6432);
    }

    #[test]
    fn native_sections_are_nested_tables() {
        let config = config(
            "[prepare]\nhost = \"h\"\nuser = \"u\"\nseed = [\"bingo\", \"a, b\"]\n\
             seed_env = { A = \"x y\" }\n[balancer]\nlisten = [\"0.0.0.0:80\", \"[::]:80\"]\n\
             max_body = \"1MiB\"\nnodes.a.address = \"h:1\"\n[balancer.health]\nbody = \"pong\"\n\
             [balancer.routes.movie]\npath = \"/api/movie/{id}\"\nmethods = [\"GET\"]\nreplay = \"always\"\n",
        );
        let prepare = config.prepare.expect("is there");
        assert_eq!(prepare.seed, ["bingo", "a, b"]);
        assert_eq!(prepare.seed_env["A"], "x y");
        let balancer = config.balancer.expect("is there");
        assert_eq!((balancer.listen.len(), balancer.max_body), (2, 1 << 20));
        assert_eq!(balancer.health.body.as_deref(), Some("pong"));
        assert_eq!(balancer.routes["movie"].replay, Replay::Always);
        assert_eq!(balancer.routes["movie"].methods, ["GET"]);
    }

    #[test]
    fn an_error_names_file_line_column_setting_suggestion_and_remedy() {
        assert_eq!(
            error("# é\n[pgbouncer]\n  max_client_con = 5\n").to_string(),
            "unknown setting \"max_client_con\" in [pgbouncer]\n  \
             at: a.toml, line 3, column 3, section [pgbouncer], setting max_client_con\n  \
             did you mean: max_client_conn\n  \
             remedy: Write \"max_client_conn\" if that was meant, or remove it."
        );
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        for (text, line, column) in [
            ("[pgbouncer]\nlisten_port = \"x\"\n", 2, 15),
            ("[pgbouncer]\nlisten_port = 1.0\n", 2, 15),
            ("[pgbouncer]\nlisten_port = 70000\n", 2, 15),
            ("[pgbouncer]\nauth_query = 1\n", 2, 14),
            ("[pgbouncer]\nadmin_users = [\"a b\"]\n", 2, 15),
            ("[pgbouncer]\nadmin_users = [1]\n", 2, 15),
            ("[pgbouncer]\nquery_timeout = inf\n", 2, 17),
            ("[pgbouncer]\nquery_timeout = \"5 parsecs\"\n", 2, 17),
            ("[pgbouncer]\nlog_stats = 1979-05-27\n", 2, 13),
            ("[databases.a]\nport = 0\n", 2, 8),
            (
                "[prepare]\nhost=\"h\"\nuser=\"u\"\nseed_env = { \"A=B\" = \"c\" }\n",
                4,
                12,
            ),
        ] {
            let error = error(text);
            assert!(
                matches!(error.problem, Problem::BadValue { .. }),
                "{text}: {error}"
            );
            assert_eq!(
                (error.place.line, error.place.column),
                (line, column),
                "{text}"
            );
        }
    }

    #[test]
    fn a_section_that_is_no_table_is_refused() {
        assert!(matches!(
            error("pgbouncer = 1\n").problem,
            Problem::Syntax(_)
        ));
        assert!(matches!(
            error("databases.a = 1\n").problem,
            Problem::Syntax(_)
        ));
    }

    #[test]
    fn an_unknown_section_is_refused_with_a_suggestion() {
        assert_eq!(error("[balancr]\n").suggestion(), Some("balancer"));
        assert_eq!(error("[balancer]\nnods = 1\n").suggestion(), Some("nodes"));
        assert_eq!(error("[\"balancer.health\"]\n").section, "balancer.health");
    }

    #[test]
    fn a_setting_outside_of_any_section_is_refused() {
        let error = error("listen_port = 1\n");
        assert_eq!(
            (&error.problem, error.key.as_str()),
            (&Problem::NoSection, "listen_port")
        );
    }

    #[test]
    fn a_duplicate_is_an_error_that_names_the_first() {
        let error = error("[databases.a]\nhost = \"h\"\n\n[databases.a]\nhost = \"i\"\n");
        let first = Place {
            file: "a.toml".into(),
            line: 1,
            column: 0,
        };
        assert_eq!(error.problem, Problem::Duplicate(first));
        assert_eq!(
            (error.place.line, error.section.as_str()),
            (4, "databases.a")
        );
        let error = self::error("[databases.a]\nport = 1\nport = 2\n");
        assert_eq!((error.place.line, error.key.as_str()), (3, "port"));
        assert_eq!(error.section, "databases.a");
    }

    #[test]
    fn a_syntax_error_names_its_place() {
        let error = error("[pgbouncer]\nlisten_port = \n");
        assert!(matches!(error.problem, Problem::Syntax(_)));
        assert_eq!(error.place.line, 2);
    }

    #[test]
    fn passwords_are_in_no_error() {
        for text in [
            "[databases.d]\npassword = [\"secret\"]\n",
            "[databases]\nd = \"password='secret\"\n",
            "[prepare]\npassword = { a = \"secret\" }\n",
            "[prepare]\nseed_env = \"secret\"\n",
            "[databases.d]\npassword = secret\n",
        ] {
            let error = error(text);
            let all = format!("{error}{error:?}{:?}", error.pgbouncer_messages());
            assert!(!all.contains("secret"), "{all}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_bytes(&bytes, Path::new("a.toml"));
        }

        #[test]
        fn no_lines_make_it_panic(lines in proptest::collection::vec(
            prop_oneof![
                "\\[(pgbouncer|databases\\.a|users|peers\\.[0-9]|prepare|balancer\\.nodes\\.[ab])\\]",
                "(port|pool_size|host|seed|listen|listen_port|query_timeout) = \\PC{0,20}",
                "(port|pool_size|host|seed|listen|listen_port|query_timeout) = \"\\PC{0,20}\"",
                "[a-z]{1,5} = [0-9]{1,3}",
                "\\PC{0,20}",
            ],
            0..12,
        )) {
            let _ = read_text(&lines.join("\n"));
        }
    }
}
