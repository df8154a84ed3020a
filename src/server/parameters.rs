//! Session parameters that are tracked per client and per server.
//!
//! PgBouncer setting: `track_extra_parameters`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use foldhash::HashSet;

use crate::wire::frontend;

/// The parameters PgBouncer always tracks.
const CLASSIC: [&str; 5] = [
    "DateStyle",
    "client_encoding",
    "TimeZone",
    "standard_conforming_strings",
    "application_name",
];

/// A longer value, quoted, is not replayed (PgBouncer's limit).
const MAX_QUOTED_LEN: usize = 127;

/// The names of the tracked parameters, fixed at start.
#[derive(Debug)]
pub struct Tracked(Vec<String>);

impl Tracked {
    /// The classic ones and those of `track_extra_parameters`.
    pub fn new(extra: &str) -> Tracked {
        let mut names: Vec<String> = CLASSIC.map(str::to_owned).to_vec();
        for name in extra.split([',', ' ']).filter(|name| !name.is_empty()) {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.to_owned());
            }
        }
        Tracked(names)
    }

    /// Where a parameter stands, in any case; none when it is not tracked.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|n| n.eq_ignore_ascii_case(name))
    }

    /// The name at `index`.
    pub fn name(&self, index: usize) -> &str {
        &self.0[index]
    }
}

/// The values one session has. Cheap to share: a change makes a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Parameters(Vec<Option<Arc<str>>>);

impl Parameters {
    /// The value at `index`.
    pub fn value(&self, index: usize) -> Option<&str> {
        self.0.get(index)?.as_deref()
    }

    /// Sets the value at `index`.
    pub fn set(&mut self, index: usize, value: &str) {
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some(value.into());
    }

    /// Name and value of all that are set.
    pub fn pairs(&self, names: &Tracked) -> Vec<(String, String)> {
        let values = self.0.iter().enumerate();
        let set = values.filter_map(|(index, value)| Some((index, value.as_deref()?)));
        set.map(|(index, value)| (names.name(index).to_owned(), value.to_owned()))
            .collect()
    }

    /// Sets those of these that are tracked.
    pub fn set_pairs(&mut self, pairs: &[(String, String)], names: &Tracked) {
        for (name, value) in pairs {
            if let Some(index) = names.index(name) {
                self.set(index, value);
            }
        }
    }

    /// Takes every value that is not set here from `other`.
    pub fn fill_from(&mut self, other: &Parameters) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), None);
        }
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            if own.is_none() {
                own.clone_from(other);
            }
        }
    }

    /// Takes over the server's spelling of what was just set there. A value
    /// that it already had in other words it does not report, and without this
    /// it would be set again for every transaction.
    pub fn take_canonical(&mut self, server: &Parameters, names: &Tracked) {
        for (index, value) in self.0.iter_mut().enumerate() {
            let (Some(own), Some(canonical)) = (&value, server.0.get(index).cloned().flatten())
            else {
                continue;
            };
            if *own != canonical {
                let name = names.name(index);
                tracing::debug!(
                    "varcache_set_canonical: setting {name} to its canonical version {own} -> {canonical}"
                );
                *value = Some(canonical);
            }
        }
    }

    /// Writes one Query that brings a session with `self` to `wanted`. False
    /// if nothing differs. Only what is set on both sides is compared.
    pub fn put_changes(&self, wanted: &Parameters, names: &Tracked, buf: &mut BytesMut) -> bool {
        let mut query = String::new();
        for (index, value) in wanted.0.iter().enumerate() {
            let (Some(own), Some(value)) = (self.value(index), value.as_deref()) else {
                continue;
            };
            let quoted = quote(names.name(index), value);
            if !own.eq_ignore_ascii_case(value) && quoted.len() <= MAX_QUOTED_LEN {
                query += &format!("SET {}={quoted};", names.name(index));
            }
        }
        if query.is_empty() {
            return false;
        }
        tracing::debug!("varcache_apply: {query}");
        frontend::put_query(buf, query.as_bytes());
        true
    }
}

/// The sets of values that sessions have now, each held once: sessions with
/// equal ones share them, so that comparing two is comparing addresses.
#[derive(Debug, Default)]
pub struct ParameterSets(Mutex<HashSet<Arc<Parameters>>>);

impl ParameterSets {
    /// The shared copy of `parameters`.
    pub fn share(&self, parameters: Parameters) -> Arc<Parameters> {
        let mut sets = self.sets();
        if let Some(known) = sets.get(&parameters) {
            return known.clone();
        }
        let shared = Arc::new(parameters);
        sets.insert(shared.clone());
        shared
    }

    /// Forgets sets that no session has any more.
    pub fn sweep(&self) {
        let mut sets = self.sets();
        sets.retain(|set| Arc::strong_count(set) > 1);
        if sets.len() < sets.capacity() / 4 {
            sets.shrink_to_fit();
        }
    }

    fn sets(&self) -> MutexGuard<'_, HashSet<Arc<Parameters>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value as a literal. `search_path` is reported already quoted.
fn quote(name: &str, value: &str) -> String {
    if name.eq_ignore_ascii_case("search_path") && !value.is_empty() {
        return value.to_owned();
    }
    let escape = if value.contains('\\') { "E" } else { "" };
    let value = value.replace('\\', r"\\").replace('\'', "''");
    format!("{escape}'{value}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(names: &Tracked, pairs: &[(&str, &str)]) -> Parameters {
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            parameters.set(names.index(name).expect("a tracked name"), value);
        }
        parameters
    }

    #[test]
    fn only_differing_values_set_on_both_sides_are_changed() {
        let names = Tracked::new("IntervalStyle");
        let server = with(&names, &[("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")]);
        let client = with(
            &names,
            &[
                ("timezone", "Asia/Tokyo"),
                ("datestyle", "iso, mdy"),
                ("IntervalStyle", "x"),
            ],
        );
        let mut buf = BytesMut::new();
        assert!(server.put_changes(&client, &names, &mut buf));
        assert_eq!(&buf[5..], b"SET TimeZone='Asia/Tokyo';\0");
    }

    #[test]
    fn values_are_quoted_as_literals() {
        assert_eq!(quote("application_name", "it's"), "'it''s'");
        assert_eq!(quote("application_name", r"a\b"), r"E'a\\b'");
        assert_eq!(
            quote("search_path", "\"$user\", public"),
            "\"$user\", public"
        );
        assert_eq!(quote("search_path", ""), "''");
    }

    #[test]
    fn equal_sets_are_one_and_unused_ones_are_swept() {
        let names = Tracked::new("");
        let sets = ParameterSets::default();
        let one = sets.share(with(&names, &[("TimeZone", "UTC")]));
        let same = sets.share(with(&names, &[("TimeZone", "UTC")]));
        let other = sets.share(with(&names, &[("TimeZone", "GMT")]));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        drop(other);
        sets.sweep();
        assert_eq!(sets.sets().len(), 1);
    }

    #[test]
    fn the_servers_spelling_is_taken_over_where_both_sides_are_set() {
        let names = Tracked::new("IntervalStyle");
        let server = with(&names, &[("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")]);
        let mut client = with(&names, &[("DateStyle", "ISO"), ("IntervalStyle", "x")]);
        client.take_canonical(&server, &names);
        let wanted = [("DateStyle", "ISO, MDY"), ("IntervalStyle", "x")];
        assert_eq!(client, with(&names, &wanted));
        let mut buf = BytesMut::new();
        assert!(!server.put_changes(&client, &names, &mut buf));
    }

    #[test]
    fn unset_values_are_filled_in() {
        let names = Tracked::new("");
        let mut client = with(&names, &[("TimeZone", "UTC")]);
        client.fill_from(&with(&names, &[("TimeZone", "GMT"), ("DateStyle", "ISO")]));
        assert_eq!(
            client,
            with(&names, &[("TimeZone", "UTC"), ("DateStyle", "ISO")])
        );
    }
}
