//! A proxy that spoils what it carries: delays, slices, freezes, resets, cuts.

use super::DEADLINE;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fault {
    /// Each segment waits this long.
    pub(crate) delay: Duration,
    /// Segments of at most this many bytes; 0 is as they come.
    pub(crate) slice: usize,
    /// Both sides are reset after this many bytes.
    pub(crate) cut_after: Option<usize>,
}

/// The faults of new connections, and switches for those that exist.
#[derive(Debug, Default)]
struct Faults {
    to_server: Fault,
    to_client: Fault,
    frozen: bool,
    /// One socket of each pair that still is open.
    open: Vec<TcpStream>,
}

/// Listens, and carries each connection to one target.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    address: SocketAddr,
    faults: Arc<Mutex<Faults>>,
}

impl FaultProxy {
    pub(crate) fn start(target: SocketAddr) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target)
    }

    /// Listens there.
    pub(crate) fn start_at(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let faults = Arc::new(Mutex::new(Faults::default()));
        let shared = Arc::downgrade(&faults);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Some(faults) = shared.upgrade() else {
                    break;
                };
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                carry_both(&client, &server, &faults);
            }
        });
        Self { address, faults }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Faults of the connections to come: towards the server, and back.
    pub(crate) fn spoil(&self, to_server: Fault, to_client: Fault) {
        let mut faults = self.faults.lock().expect("nobody panics with it");
        (faults.to_server, faults.to_client) = (to_server, to_client);
    }

    /// Stops carrying anything, or goes on.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.faults.lock().expect("nobody panics with it").frozen = frozen;
    }

    /// Resets every connection there is.
    pub(crate) fn reset_all(&self) {
        for stream in self
            .faults
            .lock()
            .expect("nobody panics with it")
            .open
            .drain(..)
        {
            reset(&stream);
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.reset_all();
        self.freeze(false);
        self.faults = Arc::default();
        // Wakes the listener, which then finds nobody to work for.
        TcpStream::connect(self.address).ok();
    }
}

fn carry_both(client: &TcpStream, server: &TcpStream, faults: &Arc<Mutex<Faults>>) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("descriptors are left");
    let (to_server, to_client) = {
        let mut faults = faults.lock().expect("nobody panics with it");
        faults.open.extend([clone(client), clone(server)]);
        (faults.to_server, faults.to_client)
    };
    for (from, to, fault) in [(client, server, to_server), (server, client, to_client)] {
        let (from, to, faults) = (clone(from), clone(to), Arc::clone(faults));
        std::thread::spawn(move || carry(from, to, fault, &faults));
    }
}

/// One direction, until its end.
fn carry(mut from: TcpStream, mut to: TcpStream, fault: Fault, faults: &Mutex<Faults>) {
    to.set_nodelay(true).ok();
    // Short, so that a thread notices a freeze that begins while it reads.
    from.set_read_timeout(Some(super::POLL)).ok();
    let mut left = fault.cut_after.unwrap_or(usize::MAX);
    let mut chunk = [0; 16 * 1024];
    let mut waiting_since = Instant::now();
    loop {
        let is_frozen = || faults.lock().is_ok_and(|faults| faults.frozen);
        while is_frozen() && waiting_since.elapsed() < 4 * DEADLINE {
            std::thread::sleep(super::POLL);
        }
        let size = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(size) => size.min(left),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if waiting_since.elapsed() > 4 * DEADLINE {
                    break;
                }
                continue;
            }
            Err(_) => return reset(&to),
        };
        waiting_since = Instant::now();
        let slice = if fault.slice == 0 {
            size.max(1)
        } else {
            fault.slice
        };
        for piece in chunk[..size].chunks(slice) {
            std::thread::sleep(fault.delay);
            if to.write_all(piece).is_err() {
                return reset(&from);
            }
        }
        left -= size;
        if left == 0 {
            reset(&from);
            return reset(&to);
        }
    }
    to.shutdown(Shutdown::Write).ok();
}

/// RST at once, though other handles of the socket exist.
fn reset(stream: &TcpStream) {
    rustix::net::connect_unspec(stream).ok();
}
