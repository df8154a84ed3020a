//! Puts a configuration together from the settings a file gives, one by one.

use std::collections::BTreeMap;
use std::path::Path;

use super::entries::{Database, Peer, User};
use super::error::{Error, Place, Problem, Warning, closest};
use super::kind::Kind;
use super::load::Loaded;
use super::model::{Config, RESERVED_DATABASE};
use super::native::{Balancer, Health, Metrics, Pgweir, Prepare, Queries};
use super::pgbouncer::Pgbouncer;
use super::settings::Section;
use super::title::Title;
use super::value::ValueError;

/// Longest name of a database, in bytes.
const MAX_DATABASE_NAME: usize = 63;

/// The old name of a key of `[databases]`.
const RESERVE_POOL: &str = "reserve_pool";

/// Keys that are sections where [`Title::below`] says so.
const SECTIONS_BELOW: &[&str] = &["health", "nodes", "routes"];

/// A configuration that is being read.
#[derive(Debug)]
pub(super) struct Assembly {
    config: Config,
    warnings: Vec<Warning>,
    /// Where each section was opened first.
    opened: BTreeMap<Title, Place>,
    /// Where each setting was given last.
    given: BTreeMap<(Title, String), Place>,
}

impl Assembly {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            config: Config::new(path),
            warnings: Vec::new(),
            opened: BTreeMap::new(),
            given: BTreeMap::new(),
        }
    }

    pub(super) fn warn(&mut self, place: &Place, what: String, remedy: &str) {
        self.warnings.push(Warning {
            place: place.clone(),
            what,
            remedy: remedy.to_owned(),
        });
    }

    /// Where a section was opened before, if it was.
    pub(super) fn opened(&self, title: &Title) -> Option<&Place> {
        self.opened.get(title)
    }

    /// Begins a section: gives it its defaults where they depend on its being
    /// there, and remembers where.
    ///
    /// # Errors
    /// A name the entry cannot have.
    pub(super) fn open(&mut self, title: &Title, place: &Place) -> Result<(), Error> {
        match title {
            Title::Pgbouncer => self.reset_pgbouncer(),
            Title::Database(name) => self.open_database(name, title, place)?,
            Title::User(name) => {
                self.config.users.insert(name.clone(), User::default());
            }
            Title::Peer(name) => {
                let id = peer_id(name).ok_or_else(|| {
                    Error::new(Problem::PeerId, place.clone()).about("peers", name)
                })?;
                self.config.peers.insert(id, Peer::default());
            }
            Title::Metrics => self.config.metrics = Metrics::default(),
            Title::Prepare => {
                self.config.prepare.get_or_insert_with(Prepare::default);
            }
            Title::Balancer | Title::Health | Title::Nodes | Title::Routes => {
                self.balancer();
            }
            Title::Node(name) => {
                self.balancer().nodes.entry(name.clone()).or_default();
            }
            Title::Route(name) => {
                self.balancer().routes.entry(name.clone()).or_default();
            }
            Title::Databases | Title::Users | Title::Peers | Title::Pgweir | Title::Queries => {}
        }
        let part_of_the_balancer = matches!(
            title,
            Title::Health | Title::Nodes | Title::Node(_) | Title::Routes | Title::Route(_)
        );
        if part_of_the_balancer {
            self.opened
                .entry(Title::Balancer)
                .or_insert_with(|| place.clone());
        }
        self.opened
            .entry(title.clone())
            .or_insert_with(|| place.clone());
        Ok(())
    }

    /// PgBouncer's way: entering its section sets what has a default to it.
    fn reset_pgbouncer(&mut self) {
        let fresh = Pgbouncer::default();
        for setting in Pgbouncer::SETTINGS {
            if setting.default.is_some() {
                (setting.copy)(&mut self.config.pgbouncer, &fresh);
                self.given
                    .remove(&(Title::Pgbouncer, setting.name.to_owned()));
            }
        }
    }

    fn open_database(&mut self, name: &str, title: &Title, place: &Place) -> Result<(), Error> {
        let problem = if name == RESERVED_DATABASE {
            Some(Problem::ReservedName)
        } else if name.len() > MAX_DATABASE_NAME {
            Some(Problem::NameTooLong)
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(Error::new(problem, place.clone()).about(title.to_string(), name));
        }
        if name == "*" {
            self.config.autodb = Some(Database::default());
        } else {
            self.config
                .databases
                .insert(name.to_owned(), Database::default());
        }
        Ok(())
    }

    fn balancer(&mut self) -> &mut Balancer {
        self.config.balancer.get_or_insert_with(Balancer::default)
    }

    /// What a setting's text looks like.
    ///
    /// # Errors
    /// No such setting.
    pub(super) fn kind(&mut self, title: &Title, key: &str, place: &Place) -> Result<Kind, Error> {
        let key = current_name(title, key);
        match self.target(title) {
            Some(target) => target
                .kind(key)
                .ok_or_else(|| unknown_key(target, title, key, place)),
            None => Err(Error::new(
                Problem::UnknownKey {
                    suggestion: None,
                    elsewhere: None,
                },
                place.clone(),
            )
            .about(title.to_string(), key)),
        }
    }

    /// Gives a setting its value, from PgBouncer's text for it.
    ///
    /// # Errors
    /// No such setting, or not its kind of value. `shown` is the text to name
    /// in the error.
    pub(super) fn set(
        &mut self,
        title: &Title,
        key: &str,
        text: &str,
        shown: &str,
        place: &Place,
    ) -> Result<(), Error> {
        let kind = self.kind(title, key, place)?;
        let key = current_name(title, key);
        let target = self.target(title).expect("kind() found the section");
        target
            .set(key, text)
            .map_err(|ValueError| Self::bad_value(kind, title, key, shown, place))?;
        self.given
            .insert((title.clone(), key.to_owned()), place.clone());
        Ok(())
    }

    /// The error for a value that is not of its setting's kind.
    pub(super) fn bad_value(
        kind: Kind,
        title: &Title,
        key: &str,
        shown: &str,
        place: &Place,
    ) -> Error {
        let value = if kind.is_secret() { "***" } else { shown };
        let suggestion = match kind {
            Kind::Word(words) => closest(shown, words.iter().copied()),
            _ => None,
        };
        let problem = Problem::BadValue {
            value: value.to_owned(),
            expected: kind.expected(),
            suggestion,
        };
        Error::new(problem, place.clone()).about(title.to_string(), key)
    }

    /// The section's settings; none for tables of entries.
    fn target(&mut self, title: &Title) -> Option<&mut dyn Target> {
        let config = &mut self.config;
        match title {
            Title::Pgbouncer => Some(&mut config.pgbouncer),
            Title::Database(name) if name == "*" => config.autodb.as_mut().map(|it| it as _),
            Title::Database(name) => config.databases.get_mut(name).map(|it| it as _),
            Title::User(name) => config.users.get_mut(name).map(|it| it as _),
            Title::Peer(name) => config.peers.get_mut(&peer_id(name)?).map(|it| it as _),
            Title::Pgweir => Some(&mut config.pgweir),
            Title::Metrics => Some(&mut config.metrics),
            Title::Queries => Some(&mut config.queries),
            Title::Prepare => config.prepare.as_mut().map(|it| it as _),
            Title::Balancer => config.balancer.as_mut().map(|it| it as _),
            Title::Health => config.balancer.as_mut().map(|it| &mut it.health as _),
            Title::Node(name) => config
                .balancer
                .as_mut()?
                .nodes
                .get_mut(name)
                .map(|it| it as _),
            Title::Route(name) => config
                .balancer
                .as_mut()?
                .routes
                .get_mut(name)
                .map(|it| it as _),
            Title::Databases | Title::Users | Title::Peers | Title::Nodes | Title::Routes => None,
        }
    }

    /// Checks that a section has what it cannot do without.
    ///
    /// # Errors
    /// A setting that must be given is not.
    pub(super) fn complete(&self, title: &Title, place: &Place) -> Result<(), Error> {
        let config = &self.config;
        let missing = match title {
            Title::Peer(name) => {
                let peer = peer_id(name).and_then(|id| config.peers.get(&id));
                peer.filter(|peer| peer.host.is_empty()).map(|_| "host")
            }
            Title::Prepare => config.prepare.as_ref().and_then(missing_in_prepare),
            Title::Balancer => config.balancer.as_ref().and_then(missing_in_balancer),
            Title::Node(name) => {
                let node = config.balancer.as_ref().and_then(|it| it.nodes.get(name));
                node.filter(|node| node.address.is_empty())
                    .map(|_| "address")
            }
            Title::Route(name) => {
                let route = config.balancer.as_ref().and_then(|it| it.routes.get(name));
                route.filter(|route| route.path.is_empty()).map(|_| "path")
            }
            _ => None,
        };
        match missing {
            Some(key) => {
                Err(Error::new(Problem::MissingKey, place.clone()).about(title.to_string(), key))
            }
            None => Ok(()),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// As [`complete`](Self::complete), of every section.
    pub(super) fn finish(self) -> Result<Loaded, Error> {
        for (title, place) in &self.opened {
            self.complete(title, place)?;
        }
        Ok(Loaded {
            config: self.config,
            warnings: self.warnings,
            given: self.given,
            opened: self.opened,
        })
    }
}

fn missing_in_prepare(prepare: &Prepare) -> Option<&'static str> {
    let required = [("host", &prepare.host), ("user", &prepare.user)];
    required
        .into_iter()
        .find(|(_, value)| value.is_empty())
        .map(|(key, _)| key)
}

fn missing_in_balancer(balancer: &Balancer) -> Option<&'static str> {
    if balancer.listen.is_empty() && balancer.https_listen.is_empty() {
        return Some("listen");
    }
    if balancer.nodes.is_empty() {
        return Some("nodes");
    }
    match (&balancer.tls_cert_file, &balancer.tls_key_file) {
        (Some(_), None) => Some("tls_key_file"),
        (None, Some(_)) => Some("tls_cert_file"),
        _ => None,
    }
}

fn peer_id(name: &str) -> Option<u32> {
    name.trim()
        .parse()
        .ok()
        .filter(|id| (1..=0xFFFF).contains(id))
}

fn current_name<'k>(title: &Title, key: &'k str) -> &'k str {
    match title {
        Title::Database(_) if key == RESERVE_POOL => "reserve_pool_size",
        _ => key,
    }
}

fn unknown_key(target: &dyn Target, title: &Title, key: &str, place: &Place) -> Error {
    let below = SECTIONS_BELOW
        .iter()
        .copied()
        .filter(|name| title.below(name).is_some());
    let suggestion = closest(key, target.names().into_iter().chain(below));
    let elsewhere = match suggestion {
        Some(_) => None,
        None => section_of(key).filter(|section| *section != title.to_string()),
    };
    Error::new(
        Problem::UnknownKey {
            suggestion,
            elsewhere,
        },
        place.clone(),
    )
    .about(title.to_string(), key)
}

/// The section with a fixed name that has this setting.
fn section_of(key: &str) -> Option<&'static str> {
    let sections: [(&str, Box<dyn Target>); 6] = [
        ("pgbouncer", Box::new(Pgbouncer::default())),
        ("pgweir", Box::new(Pgweir::default())),
        ("queries", Box::new(Queries::default())),
        ("prepare", Box::new(Prepare::default())),
        ("balancer", Box::new(Balancer::default())),
        ("balancer.health", Box::new(Health::default())),
    ];
    sections
        .iter()
        .find(|(_, target)| target.kind(key).is_some())
        .map(|(name, _)| *name)
}

/// A section's settings, whatever struct holds them.
trait Target {
    fn names(&self) -> Vec<&'static str>;
    fn kind(&self, key: &str) -> Option<Kind>;
    fn set(&mut self, key: &str, text: &str) -> Result<(), ValueError>;
}

impl<S: Section> Target for S {
    fn names(&self) -> Vec<&'static str> {
        S::SETTINGS.iter().map(|setting| setting.name).collect()
    }

    fn kind(&self, key: &str) -> Option<Kind> {
        S::setting(key).map(|setting| setting.kind)
    }

    fn set(&mut self, key: &str, text: &str) -> Result<(), ValueError> {
        (S::setting(key).ok_or(ValueError)?.set)(self, text)
    }
}
