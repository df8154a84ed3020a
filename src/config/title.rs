//! The names of sections.

use std::fmt;

use super::error::closest;

/// A section of either file. The named ones are one entry of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Title {
    Pgbouncer,
    Databases,
    Database(String),
    Users,
    User(String),
    Peers,
    Peer(String),
    Pgweir,
    Metrics,
    Queries,
    Prepare,
    Balancer,
    Health,
    Nodes,
    Node(String),
    Routes,
    Route(String),
}

/// Sections without a name of their own, as written in brackets.
const TITLES: &[(&str, Title)] = &[
    ("pgbouncer", Title::Pgbouncer),
    ("databases", Title::Databases),
    ("users", Title::Users),
    ("peers", Title::Peers),
    ("pgweir", Title::Pgweir),
    ("metrics", Title::Metrics),
    ("queries", Title::Queries),
    ("prepare", Title::Prepare),
    ("balancer", Title::Balancer),
    ("balancer.health", Title::Health),
    ("balancer.nodes", Title::Nodes),
    ("balancer.routes", Title::Routes),
];

impl Title {
    /// Reads what stands between the brackets of an ini file.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some((_, title)) = TITLES.iter().find(|(known, _)| *known == text) {
            return Some(title.clone());
        }
        let (table, name) = match text.strip_prefix("balancer.nodes.") {
            Some(name) => (Self::Nodes, name),
            None => (Self::Routes, text.strip_prefix("balancer.routes.")?),
        };
        if name.is_empty() {
            None
        } else {
            table.entry(name)
        }
    }

    /// A known section with a name like this one.
    pub(super) fn closest(text: &str) -> Option<String> {
        closest(text, TITLES.iter().map(|(known, _)| *known))
    }

    /// The section of one entry of this table.
    pub(super) fn entry(&self, name: &str) -> Option<Self> {
        let name = name.to_owned();
        match self {
            Self::Databases => Some(Self::Database(name)),
            Self::Users => Some(Self::User(name)),
            Self::Peers => Some(Self::Peer(name)),
            Self::Nodes => Some(Self::Node(name)),
            Self::Routes => Some(Self::Route(name)),
            _ => None,
        }
    }

    /// The section this key of a section holds.
    pub(super) fn below(&self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Balancer, "health") => Some(Self::Health),
            (Self::Balancer, "nodes") => Some(Self::Nodes),
            (Self::Balancer, "routes") => Some(Self::Routes),
            _ => None,
        }
    }

    /// The entry's name; empty for sections that are none.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Database(name)
            | Self::User(name)
            | Self::Peer(name)
            | Self::Node(name)
            | Self::Route(name) => name,
            _ => "",
        }
    }

    /// Whether PgBouncer knows it, and with it PgBouncer's notation holds.
    pub(super) fn is_pgbouncers(&self) -> bool {
        use Title::{Database, Databases, Peer, Peers, Pgbouncer, User, Users};
        matches!(
            self,
            Pgbouncer | Databases | Database(_) | Users | User(_) | Peers | Peer(_)
        )
    }
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, name) = match self {
            Self::Database(name) => ("databases", name),
            Self::User(name) => ("users", name),
            Self::Peer(name) => ("peers", name),
            Self::Node(name) => ("balancer.nodes", name),
            Self::Route(name) => ("balancer.routes", name),
            _ => {
                let row = TITLES.iter().find(|(_, title)| title == self);
                return f.write_str(row.expect("every title without a name has a row").0);
            }
        };
        write!(f, "{table}.{}", quoted_key(name))
    }
}

/// A name as TOML writes it: bare if it can be, else in double quotes.
pub(super) fn quoted_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        basic_string(name)
    }
}

/// A text as a TOML basic string.
pub(super) fn basic_string(text: &str) -> String {
    let mut string = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => string.extend(['\\', c]),
            '\n' => string.push_str("\\n"),
            '\t' => string.push_str("\\t"),
            c if c.is_control() => string.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => string.push(c),
        }
    }
    string.push('"');
    string
}
