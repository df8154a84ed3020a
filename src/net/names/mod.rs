//! Names of hosts, and the addresses they stand for.
//!
//! An answer holds for `dns_max_ttl`, a failure for `dns_nxdomain_ttl`, as
//! PgBouncer has it: the time to live that the DNS tells does not count. Who
//! asks for a name while it is looked up waits for that answer. What the
//! addresses of a name were before is remembered, so that servers at those
//! that are gone can be closed.

mod resolver;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use resolver::Resolver;

use crate::stats::{Clock, Micros};

/// How long a lookup may take, whatever the resolver is set to.
const LONGEST_LOOKUP: Duration = Duration::from_secs(30);

/// How long answers hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// `dns_max_ttl`: of addresses.
    pub found: Duration,
    /// `dns_nxdomain_ttl`: of a failure.
    pub failed: Duration,
}

/// The names that have been looked up. There are as many as the configuration
/// has had.
#[derive(Debug)]
pub struct Names {
    resolver: Resolver,
    clock: Clock,
    book: Mutex<Book>,
}

/// A name, for `SHOW DNS_HOSTS`.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownName {
    /// As `host` has it.
    pub name: String,
    /// How long its answer still holds.
    pub ttl: Duration,
    /// Its addresses, with port 0; none if the last lookup failed.
    pub addresses: Vec<SocketAddr>,
}

/// A zone, for `SHOW DNS_ZONES`.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownZone {
    /// What follows the first dot of its names.
    pub name: String,
    /// The serial number last seen; 0 before the first.
    pub serial: u32,
    /// How many names are in it.
    pub names: usize,
}

/// Addresses, or why there are none.
type Found = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

#[derive(Debug, Default)]
struct Book {
    lifetimes: Lifetimes,
    names: BTreeMap<String, Entry>,
    /// Serial numbers by zone.
    zones: BTreeMap<String, u32>,
    /// Addresses that their names have lost, until they are taken.
    gone: Vec<(String, IpAddr)>,
}

#[derive(Debug, Default)]
struct Entry {
    answer: Option<Answer>,
    /// The addresses of the last answer that had any.
    known: Arc<[SocketAddr]>,
    /// Tells the answer of the lookup that is under way.
    lookup: Option<watch::Receiver<Option<Found>>>,
    /// How often its addresses were asked for.
    turn: usize,
}

#[derive(Debug)]
struct Answer {
    found: Found,
    holds_until: Micros,
}

impl Names {
    /// No names yet.
    pub fn new(resolver: Resolver, clock: Clock) -> Arc<Names> {
        Arc::new(Names {
            resolver,
            clock,
            book: Mutex::default(),
        })
    }

    /// Sets how long the answers to come hold.
    pub fn set_lifetimes(&self, lifetimes: Lifetimes) {
        self.book().lifetimes = lifetimes;
    }

    /// The addresses of a name, each time beginning with the next one. The
    /// caller sets the deadline; the lookup goes on for others if it gives up.
    ///
    /// # Errors
    /// The resolver's.
    pub async fn addresses(self: &Arc<Self>, name: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![SocketAddr::new(address, 0)]);
        }
        let mut lookup = {
            let mut book = self.book();
            let entry = book.entry(name);
            if let Some(found) = entry.holding(self.clock.now()) {
                return in_turn(&found, entry);
            }
            self.begin(name, entry)
        };
        let told = lookup.wait_for(Option::is_some).await;
        let found = told.ok().and_then(|found| found.clone());
        let found = found.ok_or_else(|| io::Error::other("the lookup was interrupted"))?;
        in_turn(&found, self.book().entry(name))
    }

    /// Whether an address is none that its name has lost.
    pub fn has(&self, name: &str, address: IpAddr) -> bool {
        let book = self.book();
        let known = book.names.get(name).map(|entry| &entry.known);
        known.is_none_or(|known| known.is_empty() || known.iter().any(|it| it.ip() == address))
    }

    /// The addresses that names have lost since this was last asked.
    pub fn take_gone(&self) -> Vec<(String, IpAddr)> {
        std::mem::take(&mut self.book().gone)
    }

    /// Asks each zone for its serial number, one after the other. The names of
    /// a zone whose number has grown are looked up anew.
    pub async fn check_zones(self: &Arc<Self>) {
        let zones: Vec<String> = self.book().zones.keys().cloned().collect();
        for zone in zones {
            let asked = tokio::time::timeout(LONGEST_LOOKUP, self.resolver.serial(&zone));
            match asked.await {
                Ok(Ok(serial)) => self.zone_has(&zone, serial),
                Ok(Err(error)) => tracing::debug!("failure to get zone '{zone}' serial: {error}"),
                Err(_) => tracing::debug!("failure to get zone '{zone}' serial: no answer"),
            }
        }
    }

    /// All names.
    pub fn names(&self) -> Vec<KnownName> {
        let now = self.clock.now();
        let known = |(name, entry): (&String, &Entry)| {
            let answer = entry.answer.as_ref();
            let left = answer.map_or(0, |answer| answer.holds_until.since(now));
            let found = answer.and_then(|answer| answer.found.as_ref().ok());
            KnownName {
                name: name.clone(),
                ttl: Duration::from_micros(left),
                addresses: found.map_or(Vec::new(), |found| found.to_vec()),
            }
        };
        self.book().names.iter().map(known).collect()
    }

    /// All zones.
    pub fn zones(&self) -> Vec<KnownZone> {
        let book = self.book();
        let known = |(zone, serial): (&String, &u32)| KnownZone {
            name: zone.clone(),
            serial: *serial,
            names: book.names_in(zone).count(),
        };
        book.zones.iter().map(known).collect()
    }

    /// How many lookups are under way.
    pub fn lookups(&self) -> usize {
        let book = self.book();
        let mut entries = book.names.values();
        entries.by_ref().filter(|it| it.lookup.is_some()).count()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a lookup on the calling runtime, or joins the one under way.
    fn begin(self: &Arc<Self>, name: &str, entry: &mut Entry) -> watch::Receiver<Option<Found>> {
        let running = entry.lookup.as_ref().filter(|it| it.has_changed().is_ok());
        if let Some(running) = running {
            return running.clone();
        }
        let (tell, told) = watch::channel(None);
        entry.lookup = Some(told.clone());
        let (names, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            let asked = tokio::time::timeout(LONGEST_LOOKUP, names.resolver.addresses(&name));
            let found = match asked.await {
                Ok(Ok(addresses)) => Ok(addresses.into()),
                Ok(Err(error)) => Err(Arc::new(error)),
                Err(_) => Err(Arc::new(io::ErrorKind::TimedOut.into())),
            };
            if let Err(error) = &found {
                tracing::warn!("DNS lookup failed: {name}: {error}");
            }
            let now = names.clock.now();
            names.book().enter(&name, found.clone(), now);
            tell.send_replace(Some(found));
        });
        told
    }

    fn zone_has(self: &Arc<Self>, zone: &str, serial: u32) {
        let mut book = self.book();
        let Some(known) = book.zones.get_mut(zone) else {
            return;
        };
        // Serial numbers wrap around.
        if serial.wrapping_sub(*known).cast_signed() <= 0 {
            return;
        }
        tracing::info!("zone '{zone}' serial changed: old={known} new={serial}");
        *known = serial;
        let names: Vec<String> = book.names_in(zone).cloned().collect();
        for name in names {
            self.begin(&name, book.entry(&name));
        }
    }
}

impl Book {
    fn entry(&mut self, name: &str) -> &mut Entry {
        if !self.names.contains_key(name) {
            let zone = zone(name).map(str::to_ascii_lowercase);
            self.zones.extend(
                zone.map(|zone| (zone, 0))
                    .filter(|(zone, _)| !self.zones.contains_key(zone)),
            );
        }
        self.names.entry(name.to_owned()).or_default()
    }

    fn names_in(&self, of: &str) -> impl Iterator<Item = &String> {
        let is_in = move |name: &&String| zone(name).is_some_and(|it| it.eq_ignore_ascii_case(of));
        self.names.keys().filter(is_in)
    }

    /// Enters what a lookup has found.
    fn enter(&mut self, name: &str, found: Found, now: Micros) {
        let Lifetimes {
            found: good,
            failed,
        } = self.lifetimes;
        let entry = self.entry(name);
        entry.lookup = None;
        let new = found.as_ref().ok().cloned();
        let old = match &new {
            Some(new) => std::mem::replace(&mut entry.known, new.clone()),
            None => Arc::default(),
        };
        entry.answer = Some(Answer {
            holds_until: now + if found.is_ok() { good } else { failed },
            found,
        });
        let is_gone = |old: &&SocketAddr| {
            new.iter()
                .all(|new| new.iter().all(|it| it.ip() != old.ip()))
        };
        let gone = old
            .iter()
            .filter(is_gone)
            .map(|it| (name.to_owned(), it.ip()));
        self.gone.extend(gone);
    }
}

impl Entry {
    /// The answer, if it still holds.
    fn holding(&self, now: Micros) -> Option<Found> {
        let answer = self.answer.as_ref()?;
        (now <= answer.holds_until).then(|| answer.found.clone())
    }
}

/// What was found, beginning with the address whose turn it is.
fn in_turn(found: &Found, entry: &mut Entry) -> io::Result<Vec<SocketAddr>> {
    let found = found
        .as_ref()
        .map_err(|error| io::Error::new(error.kind(), error.clone()))?;
    let mut addresses = found.to_vec();
    let first = entry.turn % addresses.len().max(1);
    entry.turn = entry.turn.wrapping_add(1);
    addresses.rotate_left(first);
    Ok(addresses)
}

/// What follows the first dot of a name.
fn zone(name: &str) -> Option<&str> {
    let (_, zone) = name.split_once('.')?;
    (!zone.is_empty()).then_some(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes {
        found: Duration::from_secs(15),
        failed: Duration::from_secs(3),
    };

    fn book() -> Book {
        Book {
            lifetimes: LIFETIMES,
            ..Book::default()
        }
    }

    fn addresses(of: &[&str]) -> Found {
        let address = |it: &&str| SocketAddr::new(it.parse().expect("an address"), 0);
        Ok(of.iter().map(address).collect())
    }

    fn failure() -> Found {
        Err(Arc::new(io::ErrorKind::NotFound.into()))
    }

    fn at(seconds: u64) -> Micros {
        Micros(seconds * 1_000_000)
    }

    fn gone(book: &mut Book) -> Vec<String> {
        let gone = std::mem::take(&mut book.gone);
        gone.iter()
            .map(|(_, address)| address.to_string())
            .collect()
    }

    #[test]
    fn an_answer_holds_for_its_lifetime() {
        let mut book = book();
        book.enter("db", addresses(&["10.0.0.1"]), at(100));
        assert!(book.entry("db").holding(at(115)).is_some());
        assert!(book.entry("db").holding(at(116)).is_none());
        book.enter("db", failure(), at(200));
        assert!(
            book.entry("db")
                .holding(at(203))
                .is_some_and(|it| it.is_err())
        );
        assert!(book.entry("db").holding(at(204)).is_none());
    }

    #[test]
    fn addresses_that_an_answer_lacks_are_gone() {
        let mut book = book();
        book.enter("db", addresses(&["10.0.0.1", "10.0.0.2"]), at(1));
        assert_eq!(gone(&mut book), [""; 0]);
        book.enter("db", addresses(&["10.0.0.2", "10.0.0.3"]), at(2));
        assert_eq!(gone(&mut book), ["10.0.0.1"]);
    }

    #[test]
    fn a_failure_takes_no_address_away() {
        let mut book = book();
        book.enter("db", addresses(&["10.0.0.1"]), at(1));
        book.enter("db", failure(), at(2));
        assert_eq!(gone(&mut book), [""; 0]);
        book.enter("db", addresses(&["10.0.0.2"]), at(3));
        assert_eq!(gone(&mut book), ["10.0.0.1"]);
    }

    #[test]
    fn every_address_has_its_turn() {
        let found = addresses(&["10.0.0.1", "10.0.0.2"]);
        let mut entry = Entry::default();
        let mut first = || {
            in_turn(&found, &mut entry).expect("found")[0]
                .ip()
                .to_string()
        };
        assert_eq!(
            [first(), first(), first()],
            ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
        );
    }

    #[test]
    fn names_belong_to_the_zone_behind_their_first_dot() {
        let mut book = book();
        for name in ["a.Example.org", "b.example.org", "localhost", "dot."] {
            book.entry(name);
        }
        assert_eq!(book.zones.keys().collect::<Vec<_>>(), ["example.org"]);
        assert_eq!(book.names_in("example.org").count(), 2);
    }
}
