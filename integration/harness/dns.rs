//! A name server with a few names.

use super::becomes;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const A: u16 = 1;
const SOA: u16 = 6;
const AAAA: u16 = 28;

/// What it knows, and has been asked.
#[derive(Debug, Default)]
struct Book {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    serials: BTreeMap<String, u32>,
    /// Questions for IPv4 addresses, by name.
    asked: BTreeMap<String, usize>,
    /// Nothing is answered.
    silent: bool,
}

/// Answers on a port of this machine for as long as it lives.
#[derive(Debug)]
pub(crate) struct NameServer {
    address: SocketAddr,
    book: Arc<Mutex<Book>>,
}

impl NameServer {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        let timeout = Some(Duration::from_millis(100));
        socket.set_read_timeout(timeout).expect("a timeout");
        let book = Arc::<Mutex<Book>>::default();
        let shared = Arc::downgrade(&book);
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Some(book) = shared.upgrade() {
                let Ok((len, client)) = socket.recv_from(&mut packet) else {
                    continue;
                };
                let answer = answer(&packet[..len], &book);
                socket.send_to(&answer, client).ok();
            }
        });
        Self { address, book }
    }

    #[cfg(feature = "acme")]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A line of resolv.conf.
    pub(crate) fn line(&self) -> String {
        format!("nameserver {}\noptions timeout:10\n", self.address)
    }

    /// Gives a name these addresses, and no others.
    pub(crate) fn name(&self, name: &str, addresses: &[&str]) {
        let address = |it: &&str| it.parse().expect("an address");
        let addresses = addresses.iter().map(address).collect();
        self.book().addresses.insert(name.to_owned(), addresses);
    }

    /// Gives a zone this serial number.
    pub(crate) fn serial(&self, zone: &str, serial: u32) {
        self.book().serials.insert(zone.to_owned(), serial);
    }

    /// Answers nothing, or goes on.
    pub(crate) fn silence(&self, silent: bool) {
        self.book().silent = silent;
    }

    /// How often the name was asked for.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.book().asked.get(name).copied().unwrap_or(0)
    }

    /// Waits until the name was asked for so often.
    pub(crate) fn wait_asked(&self, name: &str, times: usize) {
        becomes("how often the name was asked for", times, || {
            self.asked(name)
        });
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics with it")
    }
}

/// The answer to a query with one question.
fn answer(query: &[u8], book: &Mutex<Book>) -> Vec<u8> {
    let mut name = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let len = usize::from(query[at]);
        let label = String::from_utf8_lossy(&query[at + 1..][..len]);
        name.push(label.to_lowercase());
        at += 1 + len;
    }
    let name = name.join(".");
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[12..at + 5];
    let lock = || book.lock().expect("nobody panics with it");
    *lock().asked.entry(name.clone()).or_default() += usize::from(kind == A);
    while lock().silent {
        std::thread::sleep(Duration::from_millis(5));
    }
    let known = records(&lock(), &name, kind);
    let code = if known.is_some() { 0 } else { 3 };
    let records = known.unwrap_or_default();
    let mut answer = query[..2].to_vec();
    // An answer, recursion desired and available.
    answer.extend([0x81, 0x80 | code, 0, 1]);
    let count = u16::try_from(records.len()).expect("few");
    answer.extend(count.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(question);
    for data in records {
        // The name of the question, kind, class, time to live.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60]);
        let len = u16::try_from(data.len()).expect("short");
        answer.extend(len.to_be_bytes());
        answer.extend(data);
    }
    answer
}

/// The data of the records of this kind; none if there is no such name.
fn records(book: &Book, name: &str, kind: u16) -> Option<Vec<Vec<u8>>> {
    if kind == SOA {
        let serial = book.serials.get(name)?;
        // Two names that are the root, the number, and four times.
        let data = [&[0; 2], &serial.to_be_bytes()[..], &[0; 16]].concat();
        return Some(vec![data]);
    }
    let data = |address: &IpAddr| match (kind, address) {
        (A, IpAddr::V4(address)) => Some(address.octets().to_vec()),
        (AAAA, IpAddr::V6(address)) => Some(address.octets().to_vec()),
        _ => None,
    };
    let addresses = book.addresses.get(name)?;
    Some(addresses.iter().filter_map(data).collect())
}
