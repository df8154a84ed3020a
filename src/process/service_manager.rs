//! What systemd passes and wants to be told (`sd_listen_fds`, `sd_notify`).

use std::env::VarError;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::time::{ClockId, clock_gettime};

use crate::system_calls::inherited;

/// The first descriptor that is passed.
const FIRST: RawFd = 3;

/// Descriptors taken at most; a unit has as many as it lists.
const MOST: RawFd = 1024;

/// Whether systemd has opened sockets for this process.
pub fn are_sockets_passed() -> bool {
    passed_count() > 0
}

fn passed_count() -> RawFd {
    let number = |name| -> Option<RawFd> { std::env::var(name).ok()?.parse().ok() };
    let own = rustix::process::getpid().as_raw_nonzero().get();
    match number("LISTEN_PID") == Some(own) {
        true => number("LISTEN_FDS").unwrap_or(0).clamp(0, MOST),
        false => 0,
    }
}

/// The sockets that systemd has opened for this process (`LISTEN_FDS`), with
/// the numbers they were passed under. To be called once.
///
/// # Errors
/// A descriptor that was announced is not there.
pub fn passed_sockets() -> io::Result<Vec<(RawFd, OwnedFd)>> {
    (FIRST..FIRST + passed_count()).map(take).collect()
}

fn take(number: RawFd) -> io::Result<(RawFd, OwnedFd)> {
    let socket = inherited(number)?;
    // Programs that this one starts have no business with it.
    fcntl_setfd(socket.as_fd(), FdFlags::CLOEXEC)?;
    Ok((number, socket))
}

/// Tells systemd how the process is (`NOTIFY_SOCKET`); without it nothing
/// happens.
#[derive(Debug, Default)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// As the environment says.
    pub fn from_environment() -> Notifier {
        let open = |name: OsString| -> io::Result<Notifier> {
            let address = match name.as_bytes() {
                [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
                _ => SocketAddr::from_pathname(&name)?,
            };
            let socket = UnixDatagram::unbound()?;
            // Its queue may be full; nothing here waits for that.
            socket.set_nonblocking(true)?;
            Ok(Notifier(Some((socket, address))))
        };
        let name = match std::env::var("NOTIFY_SOCKET") {
            Ok(name) => name.into(),
            Err(VarError::NotUnicode(name)) => name,
            Err(VarError::NotPresent) => return Notifier::default(),
        };
        open(name).unwrap_or_else(|error| {
            tracing::warn!("cannot notify the service manager: {error}");
            Notifier::default()
        })
    }

    /// It serves, or has read its configuration again.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// It begins to read its configuration again; [`Notifier::ready`] follows.
    /// With the moment, as `Type=notify-reload` wants it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// It begins to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={line}"));
    }

    fn send(&self, state: &str) {
        let Some((socket, address)) = &self.0 else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!("cannot notify the service manager: {error}");
        }
    }
}

/// Whether standard error is a stream of the journal: then lines may carry
/// their priority.
pub fn is_journal(stderr: impl AsFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(stderr).is_ok_and(|it| stream == format!("{}:{}", it.st_dev, it.st_ino))
}
