//! `pgweir convert`: what a `pgbouncer.ini` says, as `pgweir.toml`.

use std::path::Path;

use super::error::Error;
use super::ini::Duplicates;
use super::kind::Kind;
use super::load::{Loaded, load};
use super::settings::{Section, Setting};
use super::title::{Title, basic_string, quoted_key};
use super::value::Value;

/// The TOML file that holds what the file holds, passwords included. Loading
/// it gives the same configuration.
///
/// # Errors
/// As [`Config::load`](super::Config::load).
pub fn convert(path: &Path) -> Result<String, Error> {
    let loaded = load(path, Duplicates::Replace)?;
    Ok(toml_text(&loaded))
}

/// See [`convert`].
pub(super) fn toml_text(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut writer = Writer {
        loaded,
        text: String::new(),
    };
    writer.section(&Title::Pgbouncer, &config.pgbouncer);
    for (name, database) in &config.databases {
        writer.entry(&Title::Database(name.clone()), database);
    }
    if let Some(database) = &config.autodb {
        writer.entry(&Title::Database("*".to_owned()), database);
    }
    for (name, user) in &config.users {
        writer.entry(&Title::User(name.clone()), user);
    }
    for (id, peer) in &config.peers {
        writer.entry(&Title::Peer(id.to_string()), peer);
    }
    writer.section(&Title::Pgweir, &config.pgweir);
    writer.section(&Title::Metrics, &config.metrics);
    writer.section(&Title::Queries, &config.queries);
    if let Some(prepare) = &config.prepare {
        writer.entry(&Title::Prepare, prepare);
    }
    if let Some(balancer) = &config.balancer {
        writer.entry(&Title::Balancer, balancer);
        writer.section(&Title::Health, &balancer.health);
        for (name, node) in &balancer.nodes {
            writer.entry(&Title::Node(name.clone()), node);
        }
        for (name, route) in &balancer.routes {
            writer.entry(&Title::Route(name.clone()), route);
        }
    }
    writer.text
}

struct Writer<'l> {
    loaded: &'l Loaded,
    text: String,
}

impl Writer<'_> {
    /// A section that is the same whether it is there or not.
    fn section<S: Section + Default>(&mut self, title: &Title, section: &S) {
        let lines = self.lines(title, section);
        if !lines.is_empty() {
            self.table(title, &lines);
        }
    }

    /// A section whose being there says something.
    fn entry<S: Section + Default>(&mut self, title: &Title, section: &S) {
        let lines = self.lines(title, section);
        self.table(title, &lines);
    }

    fn table(&mut self, title: &Title, lines: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(&format!("[{title}]\n{lines}"));
    }

    /// What the file gave or what is not the default.
    fn lines<S: Section + Default>(&self, title: &Title, section: &S) -> String {
        let default = S::default();
        let is_worth_a_line = |setting: &&Setting<S>| {
            let given = (title.clone(), setting.name.to_owned());
            (setting.get)(section) != (setting.get)(&default)
                || self.loaded.given.contains_key(&given)
        };
        let line = |setting: &Setting<S>| {
            let value = toml_value(setting.kind, (setting.get)(section));
            value.map(|value| format!("{} = {value}\n", setting.name))
        };
        S::SETTINGS
            .iter()
            .filter(is_worth_a_line)
            .filter_map(line)
            .collect()
    }
}

/// A shown value in the TOML type of its kind; none if it need not be written.
fn toml_value(kind: Kind, shown: Option<String>) -> Option<String> {
    let Some(shown) = shown else {
        // Only a listener's default has to be denied.
        return (kind == Kind::Address).then(|| "\"\"".to_owned());
    };
    Some(match kind {
        Kind::Int { .. } | Kind::Time | Kind::Size => shown,
        Kind::FileMode => match i32::parse(&shown) {
            Ok(mode @ 0..) => format!("0o{mode:03o}"),
            _ => shown,
        },
        Kind::Bool => (shown != "0").to_string(),
        Kind::Words => list(&Vec::<String>::parse(&shown).unwrap_or_default()),
        Kind::Addresses | Kind::Networks => {
            let addresses: Vec<&str> = shown.split(", ").filter(|it| !it.is_empty()).collect();
            list(&addresses)
        }
        Kind::Environment => environment(&shown),
        Kind::Word(_)
        | Kind::Text
        | Kind::Secret
        | Kind::AuthDatabase
        | Kind::List
        | Kind::File
        | Kind::Path
        | Kind::Version
        | Kind::HostPort
        | Kind::Address => basic_string(&shown),
    })
}

fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<String> = items
        .iter()
        .map(|item| basic_string(item.as_ref()))
        .collect();
    format!("[{}]", items.join(", "))
}

fn environment(shown: &str) -> String {
    let variables = std::collections::BTreeMap::<String, String>::parse(shown).unwrap_or_default();
    let variables: Vec<String> = variables
        .iter()
        .map(|(name, value)| format!("{} = {}", quoted_key(name), basic_string(value)))
        .collect();
    format!("{{ {} }}", variables.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::config::{Config, Database, Pgbouncer, Prepare, User, ini, toml};

    fn from_ini(text: &str) -> Loaded {
        ini::read_bytes(text.as_bytes(), Path::new("a"), Duplicates::Replace).expect("a good ini")
    }

    fn from_toml(text: &str) -> Config {
        let loaded = toml::read_bytes(text.as_bytes(), Path::new("a"));
        loaded
            .unwrap_or_else(|error| panic!("{error}\n{text}"))
            .config
    }

    #[test]
    fn every_kind_of_value_gets_its_toml_type() {
        let loaded = from_ini(
            "[databases]\n'a\"b' = host=h1,h2 password='p w' pool_size=5\n* = host=/run\n\
             [users]\nu =\n[pgbouncer]\nlisten_port = 6432\nquery_timeout = 0.5\n\
             unix_socket_mode = 0770\nlog_stats = 0\npool_mode = Statement\n\
             [prepare]\nhost = h\nuser = u\nseed = bingo 'a b'\nseed_env = A=1\n",
        );
        assert_eq!(
            toml_text(&loaded),
            "[pgbouncer]\nlisten_port = 6432\nlog_stats = false\npool_mode = \"statement\"\n\
             query_timeout = 0.5\nunix_socket_mode = 0o770\n\n\
             [databases.\"a\\\"b\"]\nhost = \"h1,h2\"\npassword = \"p w\"\npool_size = 5\n\n\
             [databases.\"*\"]\nhost = \"/run\"\n\n[users.u]\n\n[metrics]\nlisten = \"\"\n\n\
             [prepare]\nhost = \"h\"\nuser = \"u\"\nseed = [\"bingo\", \"a b\"]\n\
             seed_env = { A = \"1\" }\n"
        );
    }

    fn text_of(kind: Kind) -> BoxedStrategy<String> {
        match kind {
            Kind::Int { min, max } => (min..=max).prop_map(|n| n.to_string()).boxed(),
            Kind::FileMode => "0[0-7]{3}".boxed(),
            Kind::Bool => "[01]".boxed(),
            Kind::Time => "[0-9]{1,6}(\\.[0-9]{1,6})?".boxed(),
            Kind::Size => "[0-9]{1,6}".boxed(),
            Kind::Word(words) => select(words).prop_map(str::to_owned).boxed(),
            Kind::Address | Kind::Addresses => "127\\.0\\.0\\.1:[1-9][0-9]{0,3}".boxed(),
            Kind::Networks => "10\\.[0-9]{1,2}\\.0\\.0/16".boxed(),
            Kind::Words => "[a-z,]{1,5} '[a-z ,\"]{0,5}'".boxed(),
            Kind::Environment => "[A-Z]{1,3}=[a-z]{0,3} 'B= ,'".boxed(),
            Kind::Path => "/[a-z{}]{0,5}".boxed(),
            Kind::Version => "[0-9][0-9a-z.+~-]{0,8}".boxed(),
            Kind::HostPort => "[a-z]{1,5}:[1-9][0-9]{0,3}".boxed(),
            Kind::Text | Kind::Secret | Kind::AuthDatabase | Kind::List | Kind::File => {
                "[!-~][ -~é]{0,8}[!-~]".boxed()
            }
        }
    }

    /// `key` and text of one setting of the section.
    fn setting<S: Section>() -> impl Strategy<Value = (&'static str, String)> {
        (0..S::SETTINGS.len()).prop_flat_map(|index| {
            let setting = &S::SETTINGS[index];
            text_of(setting.kind).prop_map(move |text| (setting.name, text))
        })
    }

    fn lines<S: Section>() -> impl Strategy<Value = String> {
        proptest::collection::vec(setting::<S>(), 0..12).prop_map(|settings| {
            settings
                .into_iter()
                .map(|(key, text)| format!("{key} = {text}\n"))
                .collect()
        })
    }

    fn entry<S: Section>() -> impl Strategy<Value = String> {
        let key = "[a-z. \"é]{1,6}";
        (key, proptest::collection::vec(setting::<S>(), 0..8)).prop_map(|(name, settings)| {
            let pair =
                |(key, text): (&str, String)| format!("{key}='{}'", text.replace('\'', "''"));
            let pairs: Vec<String> = settings.into_iter().map(pair).collect();
            format!("'{name}' = {}\n", pairs.join(" "))
        })
    }

    proptest! {
        #[test]
        fn the_toml_says_what_the_ini_says(
            settings in lines::<Pgbouncer>(),
            database in entry::<Database>(),
            user in entry::<User>(),
            prepare in lines::<Prepare>(),
        ) {
            let loaded = from_ini(&format!(
                "[pgbouncer]\n{settings}[databases]\n{database}[users]\n{user}\
                 [prepare]\nhost = h\nuser = u\n{prepare}[balancer.nodes]\na = address=h:1\n\
                 [balancer]\nlisten = 127.0.0.1:80\n",
            ));
            let text = toml_text(&loaded);
            prop_assert_eq!(from_toml(&text), loaded.config, "{}", text);
        }
    }
}
