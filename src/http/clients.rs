//! Clients, counted by who they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::family::{Family, Label, Row, gauge, label};
use crate::pool::{Bouncer, Client, ClientState, Database, User};

/// Names of applications with series of their own. Clients choose the name, so
/// there may be any number of them; those of fewer clients share [`OTHER`].
const MAX_APPLICATION_NAMES: usize = 100;

/// Longest application name in a label, in bytes: where PostgreSQL cuts it
/// (`NAMEDATALEN` - 1).
const MAX_APPLICATION_NAME: usize = 63;

/// The application name of clients beyond [`MAX_APPLICATION_NAMES`].
const OTHER: &str = "other";

/// Clients that no label tells apart.
#[derive(Debug)]
pub(super) struct Clients {
    pub database: Arc<Database>,
    pub user: Arc<User>,
    pub application_name: String,
    pub state: ClientState,
    /// How many they are.
    pub count: u32,
    /// Prepared statements they have.
    pub prepared: u64,
}

impl Row for Clients {
    const LABELS: &'static [Label<Self>] = &[
        label("database", |clients| clients.database.name.as_str().into()),
        label("user", |clients| clients.user.name.as_str().into()),
        label("application_name", |clients| {
            clients.application_name.as_str().into()
        }),
        label("state", |clients| clients.state.name().into()),
    ];
    const FAMILIES: &'static [Family<Self>] = &[gauge(
        "pgbouncer_client_connections",
        "Logged-in clients by database, user, application_name and state (active, idle, waiting). Names of few clients are `other` when there are very many.",
        |clients| clients.count.into(),
    )];
}

/// All logged-in clients.
pub(super) fn clients(bouncer: &Bouncer) -> Vec<Clients> {
    // Taken out first, so that the map is locked for moments only.
    let all: Vec<Arc<Client>> = bouncer.clients.iter().map(|entry| entry.clone()).collect();
    let kept = names_kept(all.iter().map(|client| name_of(client)));
    let mut groups: HashMap<(&str, &str, &str, &str), Clients> = HashMap::new();
    for client in &all {
        let name = Some(name_of(client)).filter(|name| kept.contains(name));
        let name = name.unwrap_or(OTHER);
        let state = client.state();
        let (database, user) = (&client.database, &client.user);
        let group = groups
            .entry((&database.name, &user.name, name, state.name()))
            .or_insert_with(|| Clients {
                database: database.clone(),
                user: user.clone(),
                application_name: name.to_owned(),
                state,
                count: 0,
                prepared: 0,
            });
        group.count += 1;
        group.prepared += u64::from(client.prepared());
    }
    groups.into_values().collect()
}

fn name_of(client: &Client) -> &str {
    let name = &*client.application_name;
    let mut end = name.len().min(MAX_APPLICATION_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// The names of most clients; of equals, the first in the alphabet.
fn names_kept<'a>(names: impl Iterator<Item = &'a str>) -> HashSet<&'a str> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then(a.cmp(b)));
    counts.truncate(MAX_APPLICATION_NAMES);
    counts.into_iter().map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{bouncer, join};

    fn found(bouncer: &Bouncer) -> Vec<(String, &'static str, u32)> {
        let mut found: Vec<_> = clients(bouncer)
            .into_iter()
            .map(|group| (group.application_name, group.state.name(), group.count))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn clients_are_counted_by_name_and_state() {
        let bouncer = bouncer();
        for (name, state) in [
            ("web", ClientState::Idle),
            ("web", ClientState::Idle),
            ("web", ClientState::Active),
            ("", ClientState::Waiting),
        ] {
            join(&bouncer, "shop", "ann", name).set_state(state);
        }
        assert_eq!(
            found(&bouncer),
            [
                (String::new(), "waiting", 1),
                ("web".to_owned(), "active", 1),
                ("web".to_owned(), "idle", 2),
            ]
        );
    }

    #[test]
    fn users_and_databases_are_told_apart() {
        let bouncer = bouncer();
        for (database, user) in [("shop", "ann"), ("shop", "bob"), ("blog", "ann")] {
            join(&bouncer, database, user, "web");
        }
        assert_eq!(found(&bouncer).len(), 3);
    }

    #[test]
    fn the_names_of_most_clients_are_kept_and_the_rest_is_other() {
        let bouncer = bouncer();
        for number in 0..MAX_APPLICATION_NAMES + 20 {
            join(&bouncer, "shop", "ann", &format!("app{number:03}"));
        }
        for _ in 0..2 {
            join(&bouncer, "shop", "ann", "zebra");
        }
        let found = found(&bouncer);
        assert_eq!(found.len(), MAX_APPLICATION_NAMES + 1);
        assert!(found.contains(&("zebra".to_owned(), "idle", 2)));
        assert!(found.contains(&("app098".to_owned(), "idle", 1)));
        assert!(found.contains(&(OTHER.to_owned(), "idle", 21)));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let bouncer = bouncer();
        join(&bouncer, "shop", "ann", &"я".repeat(40));
        assert_eq!(found(&bouncer), [("я".repeat(31), "idle", 1)]);
    }
}
