//! A balancer on its way from one process to the next.
//!
//! The next process asks for everything while the old one goes on serving:
//! listening sockets, UDP ports, the modes of nodes, the answers that are kept.
//! It looks at the nodes and waits. Then the old one *leaves*: it accepts
//! nobody and reads no port any more, and says so; the next one begins. What
//! comes in between waits in the sockets, which are the same ones, so nobody
//! is turned away. The old one goes on for the connections it has and bids
//! them farewell:
//!
//! | | |
//! |---|---|
//! | HTTP/1 | the next answer says `Connection: close`; who asks nothing for [`FAREWELL`] is closed |
//! | HTTP/2 | GOAWAY; what is on its way is served; a second GOAWAY says what was |
//! | HTTP/3 | the same; its packets come by way of the next process (`h3/port.rs`) |
//!
//! and ends when the last of them has ended, after `drain_timeout` at the
//! latest. Until it does it may be one of several that are ending.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, Uri};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;
use rustix::time::{ClockId, clock_gettime};

use super::cache::Stored;
use super::core::Core;
use super::h3::{Elder, Lineage, Seat};
use crate::config;
use crate::handover::front::{FORMAT, Kept, Row};
use crate::http::NodeMode;
use crate::net::Listener;
use crate::process::Passed;

/// The number of ports that the service manager passes; they have no elders.
const PASSED: usize = usize::MAX;

/// For so long a connection of HTTP/1 is kept open for one more request.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// What a balancer goes on with. Nothing, by default.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Given>,
    /// By the service manager: each is served, whatever the settings say.
    are_passed: bool,
    elders: Vec<(usize, Elder)>,
    lineage: Option<Lineage>,
    modes: Vec<(String, String, NodeMode)>,
    kept: Vec<Kept>,
}

/// A socket, and what it is for.
#[derive(Debug)]
struct Given {
    purpose: Purpose,
    address: SocketAddr,
    socket: OwnedFd,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Listening for HTTP, in clear or over TLS.
    Listen { secure: bool },
    /// HTTP/3; by its number in the rows.
    Port(usize),
}

impl Inherited {
    /// What another process tells.
    ///
    /// # Errors
    /// One line that says what is wrong with it.
    pub fn read(rows: Vec<(Row, Option<OwnedFd>)>) -> Result<Inherited, String> {
        let mut inherited = Inherited::default();
        for (row, socket) in rows {
            match (row, socket) {
                (Row::Format { format, .. }, _) if format != FORMAT => {
                    tracing::warn!("the old process hands its balancer over in another way");
                    return Ok(Inherited::default());
                }
                (
                    Row::Format {
                        generation, key, ..
                    },
                    _,
                ) => inherited.lineage = Some(Lineage::after(generation, key)),
                (Row::Listener { secure }, Some(socket)) => {
                    inherited.give(Purpose::Listen { secure }, socket)?;
                }
                (Row::Port { number }, Some(socket)) => {
                    inherited.give(Purpose::Port(number), socket)?;
                }
                (Row::Elder { port, generation }, Some(relay)) => {
                    let elder = Elder { generation, relay };
                    inherited.elders.push((port, elder));
                }
                (
                    Row::Node {
                        name,
                        address,
                        mode,
                    },
                    _,
                ) => {
                    let mode = NodeMode::ALL.into_iter().find(|it| it.word() == mode);
                    let mode = mode.ok_or("SHOW BALANCER: a mode that there is not")?;
                    inherited.modes.push((name, address, mode));
                }
                (Row::Kept(kept), _) => inherited.kept.push(kept),
                (_, None) => return Err("SHOW BALANCER: a row without its descriptor".into()),
            }
        }
        Ok(inherited)
    }

    /// What the service manager passes: sockets that are called `http`, `https`
    /// or `quic`, wherever they are, and of the others those whose address is
    /// listened on. The rest stays.
    ///
    /// # Errors
    /// One line that says which socket is not what its name says.
    pub fn passed(
        settings: &config::Balancer,
        passed: &mut Vec<Passed>,
    ) -> Result<Inherited, String> {
        let mut inherited = Inherited {
            are_passed: true,
            ..Inherited::default()
        };
        for given in std::mem::take(passed) {
            let address = Listener::address(&given.socket);
            let is_udp = socket_type(&given.socket).is_ok_and(|it| it == SocketType::DGRAM);
            let is_in = |list: &[SocketAddr]| address.is_some_and(|it| list.contains(&it));
            let named = match given.name.as_str() {
                "http" => Some(Purpose::Listen { secure: false }),
                "https" => Some(Purpose::Listen { secure: true }),
                "quic" => Some(Purpose::Port(PASSED)),
                _ => None,
            };
            let purpose = named.or_else(|| match is_udp {
                true => is_in(&settings.https_listen).then_some(Purpose::Port(PASSED)),
                false if is_in(&settings.listen) => Some(Purpose::Listen { secure: false }),
                false => {
                    let secure = is_in(&settings.https_listen);
                    secure.then_some(Purpose::Listen { secure })
                }
            });
            let Some(purpose) = purpose else {
                passed.push(given);
                continue;
            };
            let Passed {
                number,
                name,
                socket,
            } = given;
            if is_udp != matches!(purpose, Purpose::Port(_)) || address.is_none() {
                let kind = if is_udp { "a UDP" } else { "no UDP" };
                return Err(format!(
                    "socket passed from service manager (fd {number}, {name}) is {kind} socket"
                ));
            }
            tracing::info!("socket passed from service manager (fd {number}) is the balancer's");
            inherited.give(purpose, socket)?;
        }
        Ok(inherited)
    }

    /// The addresses to listen on: those of the settings, and those of sockets
    /// that the service manager passes.
    pub(super) fn addresses(&self, configured: &[SocketAddr], secure: bool) -> Vec<SocketAddr> {
        let mut all = configured.to_vec();
        if self.are_passed {
            let purpose = Purpose::Listen { secure };
            let given = self.sockets.iter().filter(|it| it.purpose == purpose);
            all.extend(given.map(|it| it.address));
            let mut seen = Vec::new();
            all.retain(|it| {
                let is_new = it.port() == 0 || !seen.contains(it);
                seen.push(*it);
                is_new
            });
        }
        all
    }

    fn give(&mut self, purpose: Purpose, socket: OwnedFd) -> Result<(), String> {
        let address = Listener::address(&socket);
        let address = address.ok_or("a socket of the balancer's without an address")?;
        self.sockets.push(Given {
            purpose,
            address,
            socket,
        });
        Ok(())
    }

    /// The socket that listens on this address, if there is one.
    pub(super) fn listener(&mut self, address: SocketAddr, secure: bool) -> Option<TcpListener> {
        let (_, socket) = self.take(address, |it| it == Purpose::Listen { secure })?;
        match Listener::of(socket) {
            Ok(Listener::Tcp(listener)) => Some(listener),
            _ => None,
        }
    }

    /// The UDP port of this address, and who has connections there.
    pub(super) fn port(&mut self, address: SocketAddr) -> Option<(UdpSocket, Vec<Elder>)> {
        let is_port = |it| matches!(it, Purpose::Port(_));
        let (purpose, socket) = self.take(address, is_port)?;
        let mut elders = Vec::new();
        for (port, elder) in std::mem::take(&mut self.elders) {
            match purpose == Purpose::Port(port) {
                true => elders.push(elder),
                false => self.elders.push((port, elder)),
            }
        }
        Some((socket.into(), elders))
    }

    fn take(
        &mut self,
        wanted: SocketAddr,
        fits: impl Fn(Purpose) -> bool,
    ) -> Option<(Purpose, OwnedFd)> {
        let is_there = |found: SocketAddr| {
            found.ip() == wanted.ip() && (found.port() == wanted.port() || wanted.port() == 0)
        };
        let mut sockets = self.sockets.iter();
        let place = sockets.position(|it| fits(it.purpose) && is_there(it.address))?;
        let given = self.sockets.swap_remove(place);
        Some((given.purpose, given.socket))
    }

    /// Where among those that follow each other this process stands.
    pub(super) fn lineage(&mut self) -> Lineage {
        self.lineage.take().unwrap_or_else(Lineage::new)
    }

    /// Goes on with what is known of nodes and with what is kept. What is left
    /// of the sockets is closed: nothing is to listen there any more.
    pub(super) fn enter(self, core: &Core) {
        let nodes = &core.nodes;
        for (name, address, mode) in self.modes {
            let mut all = 0..nodes.len();
            let its = |it: &usize| {
                let node = nodes.get(*it);
                node.name == name && node.address == address
            };
            let Some(node) = all.find(its) else { continue };
            if let Err(problem) = nodes.set_mode(node, mode) {
                tracing::warn!(node = name, mode = mode.word(), "{problem}");
            }
        }
        let clock = Clock::look();
        for kept in &self.kept {
            let Some((target, stored)) = read_kept(kept) else {
                tracing::warn!("an answer that the old process kept makes no sense");
                continue;
            };
            if let (Some(rule), Some(sent)) = (core.routes.rule(&target), clock.instant(kept.sent))
            {
                let times = (micros(kept.age), micros(kept.life));
                core.cache.restore(rule, &target, stored, sent, times);
            }
        }
        for given in &self.sockets {
            tracing::info!("nothing listens on {} any more", given.address);
        }
    }
}

/// Sockets of a balancer that runs, for the process after it.
#[derive(Debug)]
pub(super) struct Sockets {
    lineage: Lineage,
    /// Another process has been told of them.
    are_told: AtomicBool,
    held: Mutex<Held>,
}

/// None any more, once another process has them or nobody is to.
#[derive(Debug, Default)]
struct Held {
    listeners: Vec<(bool, OwnedFd)>,
    ports: Vec<Arc<Seat>>,
}

impl Sockets {
    pub(super) fn new(lineage: Lineage) -> Sockets {
        Sockets {
            lineage,
            are_told: AtomicBool::new(false),
            held: Mutex::default(),
        }
    }

    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Keeps another descriptor of a listening socket.
    ///
    /// # Errors
    /// There are too few descriptors.
    pub(super) fn hold(&self, listener: &TcpListener, secure: bool) -> io::Result<()> {
        let socket = listener.try_clone()?.into();
        self.held().listeners.push((secure, socket));
        Ok(())
    }

    pub(super) fn hold_port(&self, seat: &Arc<Seat>) {
        self.held().ports.push(Arc::clone(seat));
    }

    /// Whether another process has been told of them.
    pub(super) fn are_told(&self) -> bool {
        self.are_told.load(Ordering::Relaxed)
    }

    /// Another process has them: ports are read no more.
    pub(super) fn leave(&self) {
        for seat in std::mem::take(&mut *self.held()).ports {
            seat.leave();
        }
    }

    /// Nobody is to have them.
    pub(super) fn close(&self) {
        *self.held() = Held::default();
    }

    fn tell(&self, rows: &mut Vec<(Row, Option<OwnedFd>)>) -> io::Result<()> {
        self.are_told.store(true, Ordering::Relaxed);
        let generation = self.lineage.generation();
        let format = Row::Format {
            format: FORMAT,
            generation,
            key: self.lineage.key(),
        };
        rows.push((format, None));
        let held = self.held();
        for (secure, socket) in &held.listeners {
            let row = Row::Listener { secure: *secure };
            rows.push((row, Some(socket.try_clone()?)));
        }
        for (number, seat) in held.ports.iter().enumerate() {
            let (socket, elders) = seat.hand_over(generation)?;
            rows.push((Row::Port { number }, Some(socket)));
            for Elder { generation, relay } in elders {
                let port = number;
                rows.push((Row::Elder { port, generation }, Some(relay)));
            }
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything there is to go on with, for another process.
///
/// # Errors
/// There are too few descriptors.
pub(super) fn tell(core: &Core, sockets: &Sockets) -> io::Result<Vec<(Row, Option<OwnedFd>)>> {
    let mut rows = Vec::new();
    sockets.tell(&mut rows)?;
    for (number, mode) in core.nodes.modes().into_iter().enumerate() {
        let node = core.nodes.get(number);
        let row = Row::Node {
            name: node.name.clone(),
            address: node.address.clone(),
            mode: mode.word().to_owned(),
        };
        rows.push((row, None));
    }
    let clock = Clock::look();
    for (target, stored, sent, (age, life)) in core.cache.kept() {
        let headers = stored.headers.iter();
        let headers = headers.map(|(name, value)| {
            let value = STANDARD.encode(value.as_bytes());
            (name.as_str().to_owned(), value)
        });
        let kept = Kept {
            target: target.to_string(),
            status: stored.status.as_u16(),
            headers: headers.collect(),
            body: STANDARD.encode(&stored.body),
            sent: clock.micros(sent),
            age: age.as_micros() as u64,
            life: life.as_micros() as u64,
        };
        rows.push((Row::Kept(kept), None));
    }
    Ok(rows)
}

fn read_kept(kept: &Kept) -> Option<(Uri, Arc<Stored>)> {
    let mut headers = HeaderMap::new();
    for (name, value) in &kept.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(STANDARD.decode(value).ok()?).ok()?;
        headers.append(name, value);
    }
    let stored = Stored {
        status: StatusCode::from_u16(kept.status).ok()?,
        headers,
        body: STANDARD.decode(&kept.body).ok()?.into(),
    };
    Some((kept.target.parse().ok()?, Arc::new(stored)))
}

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// The clock that all processes of a machine have in common
/// (`CLOCK_MONOTONIC`), beside this one's own.
#[derive(Debug, Clone, Copy)]
struct Clock {
    common: Duration,
    /// Read before it and after it: what was long ago seems a little longer
    /// ago, never less.
    own: [Instant; 2],
}

impl Clock {
    fn look() -> Clock {
        let before = Instant::now();
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
        Clock {
            common: Duration::new(seconds, nanos),
            own: [before, Instant::now()],
        }
    }

    fn micros(&self, own: Instant) -> u64 {
        let ago = self.own[1].saturating_duration_since(own);
        self.common.saturating_sub(ago).as_micros() as u64
    }

    /// None for a moment that this process cannot name.
    fn instant(&self, common: u64) -> Option<Instant> {
        let ago = self.common.saturating_sub(micros(common));
        self.own[0].checked_sub(ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_the_same_in_both_processes_and_never_later() {
        let (earlier, before) = (Instant::now(), Clock::look());
        std::thread::sleep(Duration::from_millis(2));
        let told = before.micros(earlier);
        let read = Clock::look().instant(told).expect("not before the start");
        assert!(read <= earlier);
        assert!(earlier - read < Duration::from_secs(1));
    }

    #[test]
    fn a_kept_answer_is_read_as_it_was_told_and_nonsense_is_none() {
        let mut kept = Kept {
            target: "/long?x=1".into(),
            status: 200,
            headers: vec![("x".into(), STANDARD.encode(b"\xff"))],
            body: STANDARD.encode(b"body"),
            sent: 0,
            age: 0,
            life: 0,
        };
        let (target, stored) = read_kept(&kept).expect("an answer");
        assert_eq!((target.path(), target.query()), ("/long", Some("x=1")));
        assert_eq!(
            (stored.status, &stored.body[..]),
            (StatusCode::OK, &b"body"[..])
        );
        assert_eq!(stored.headers["x"].as_bytes(), b"\xff");
        kept.headers[0].1 = STANDARD.encode(b"\n");
        assert!(read_kept(&kept).is_none());
    }

    #[test]
    fn what_the_service_manager_passes_is_known_by_its_name_or_its_address() {
        let tcp = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (listed, named, other) = (tcp(), tcp(), tcp());
        let secure = named.local_addr().expect("bound");
        let udp = UdpSocket::bind(secure).expect("a port");
        let mut settings = crate::balancer::tests::settings_without_nodes();
        settings.listen = vec![listed.local_addr().expect("bound")];
        let list = [
            ("pgweir.socket", OwnedFd::from(listed)),
            ("https", named.into()),
            ("quic", udp.into()),
            ("pgbouncer.socket", other.into()),
        ];
        let list = list.into_iter().zip(3..);
        let passed = list.map(|((name, socket), number)| Passed {
            number,
            name: name.into(),
            socket,
        });
        let mut passed: Vec<_> = passed.collect();
        let mut inherited = Inherited::passed(&settings, &mut passed).expect("good ones");
        let left: Vec<_> = passed.iter().map(|it| it.number).collect();
        assert_eq!(left, [6], "the pooler's");
        assert_eq!(
            inherited.addresses(&settings.listen, false),
            settings.listen
        );
        assert_eq!(inherited.addresses(&settings.https_listen, true), [secure]);
        assert!(inherited.listener(settings.listen[0], false).is_some());
        assert!(inherited.listener(secure, true).is_some());
        assert!(
            inherited
                .port(secure)
                .is_some_and(|(_, elders)| elders.is_empty())
        );
        passed[0].name = "quic".into();
        let error = Inherited::passed(&settings, &mut passed).expect_err("it is TCP");
        assert!(error.contains("(fd 6, quic) is no UDP socket"), "{error}");
    }

    #[test]
    fn a_socket_serves_only_its_own_address_and_purpose() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let row = Row::Listener { secure: true };
        let rows = vec![(row.clone(), Some(socket.into()))];
        let mut inherited = Inherited::read(rows).expect("good rows");
        assert!(inherited.listener(address, false).is_none());
        assert!(inherited.port(address).is_none());
        let other = SocketAddr::new(address.ip(), address.port() ^ 1);
        assert!(inherited.listener(other, true).is_none());
        assert!(inherited.listener(address, true).is_some());
        assert!(inherited.listener(address, true).is_none(), "once");
        assert!(Inherited::read(vec![(row, None)]).is_err());
    }
}
