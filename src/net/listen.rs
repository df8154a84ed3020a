//! Listening sockets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::libc;
use nix::setsockopt_impl;
use nix::sys::socket::SetSockOpt;
use nix::sys::socket::sockopt::SetBool;
use nix::unistd::{Gid, Group};
use rustix::net::{AddressFamily, SocketType, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{SocketOptions, Stream, UnixAddress};

/// A connection is there when its first bytes are.
#[derive(Debug, Clone)]
struct DeferAccept;

setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    bool,
    SetBool
);

/// Why a listening socket could not be had.
#[derive(Debug)]
pub enum ListenError {
    /// An item of `listen_addr` has no address.
    Unresolved {
        /// The item.
        name: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// An address cannot be listened on.
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The Unix socket cannot be made.
    Unix {
        /// Where.
        address: UnixAddress,
        /// What the system said.
        error: io::Error,
    },
    /// The Unix socket cannot be given to `unix_socket_group`.
    Group {
        /// The setting.
        group: String,
        /// What the system said; none where it knows no such group.
        error: Option<io::Error>,
    },
    /// A PostgreSQL server has claimed the number of the Unix socket.
    Locked {
        /// The number.
        port: u16,
    },
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::Unresolved { name, error } => {
                write!(f, "cannot resolve listen_addr {name}: {error}")
            }
            ListenError::Tcp { address, error } => {
                write!(f, "cannot listen on {address}: {error}")
            }
            ListenError::Unix { address, error } => {
                write!(f, "cannot listen on {address}: {error}")
            }
            ListenError::Group { group, error: None } => {
                write!(f, "could not find group '{group}'")
            }
            ListenError::Group {
                group,
                error: Some(error),
            } => write!(f, "cannot give the Unix socket to group {group}: {error}"),
            ListenError::Locked { port } => write!(f, "unix port {port} is in use"),
        }
    }
}

impl std::error::Error for ListenError {}

/// The addresses `listen_addr` names. `*` is every address of both families.
///
/// # Errors
/// [`ListenError::Unresolved`].
pub fn tcp_addresses(listen_addr: &str, port: u16) -> Result<Vec<SocketAddr>, ListenError> {
    let mut addresses = Vec::new();
    for name in listen_addr
        .split(',')
        .map(str::trim)
        .filter(|n| !n.is_empty())
    {
        if name == "*" {
            addresses.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
            addresses.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
            continue;
        }
        let resolved = (name, port)
            .to_socket_addrs()
            .map_err(|error| ListenError::Unresolved {
                name: name.to_owned(),
                error,
            })?;
        for address in resolved {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

/// Listens on a TCP address. IPv6 sockets are IPv6 only.
///
/// # Errors
/// [`ListenError::Tcp`].
pub fn tcp_listener(
    address: SocketAddr,
    backlog: i32,
    reuse_port: bool,
) -> Result<std::net::TcpListener, ListenError> {
    let listen = || -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_port(reuse_port)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        Ok(socket)
    };
    listen()
        .map(Into::into)
        .map_err(|error| ListenError::Tcp { address, error })
}

/// Who may connect to a Unix socket in a folder.
#[derive(Debug, Clone)]
pub struct UnixAccess {
    /// `unix_socket_mode`.
    pub mode: u32,
    /// `unix_socket_group`, by name or number; empty leaves it to the system.
    pub group: String,
}

impl UnixAccess {
    fn apply(
        &self,
        file: &Path,
        refused: impl Fn(io::Error) -> ListenError,
    ) -> Result<(), ListenError> {
        if !self.group.is_empty() {
            let in_vain = |error| ListenError::Group {
                group: self.group.clone(),
                error,
            };
            let group = self.gid().ok_or_else(|| in_vain(None))?;
            std::os::unix::fs::chown(file, None, Some(group.as_raw()))
                .map_err(|error| in_vain(Some(error)))?;
        }
        let mode = std::fs::Permissions::from_mode(self.mode);
        std::fs::set_permissions(file, mode).map_err(refused)
    }

    fn gid(&self) -> Option<Gid> {
        if let Ok(number) = self.group.parse() {
            return Some(Gid::from_raw(number));
        }
        Some(Group::from_name(&self.group).ok()??.gid)
    }
}

/// Listens on a Unix socket. A file left by a dead process is replaced.
///
/// # Errors
/// [`ListenError::Unix`], [`ListenError::Group`], [`ListenError::Locked`].
pub fn unix_listener(
    address: &UnixAddress,
    backlog: i32,
    access: &UnixAccess,
) -> Result<std::os::unix::net::UnixListener, ListenError> {
    let refused = |error| ListenError::Unix {
        address: address.clone(),
        error,
    };
    if address
        .lock_file()
        .is_some_and(|it| it.symlink_metadata().is_ok())
    {
        return Err(ListenError::Locked {
            port: address.port(),
        });
    }
    let path = address.path();
    match path.as_ref().map(std::fs::remove_file) {
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    let listen = || {
        let listener = std::os::unix::net::UnixListener::bind_addr(&address.socket_addr()?)?;
        listener.set_nonblocking(true)?;
        // It listens already, with the library's backlog.
        rustix::net::listen(&listener, backlog)?;
        Ok(listener)
    };
    let listener = listen().map_err(refused)?;
    if let Some(path) = &path {
        access.apply(path, refused)?;
    }
    Ok(listener)
}

/// Whether a TCP connection is accepted only when it has sent something
/// (`tcp_defer_accept`). One that is silent is accepted after a second or two.
pub fn set_defer_accept(listener: &impl AsFd, on: bool) {
    if let Err(error) = DeferAccept.set(listener, &on) {
        let act = if on { "install" } else { "uninstall" };
        tracing::warn!("tune_accept: {act} TCP_DEFER_ACCEPT: {error}");
    }
}

/// A listening socket that another process has made.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix domain.
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// The TCP address of a listening socket; none of a Unix one.
    pub fn address(socket: &OwnedFd) -> Option<SocketAddr> {
        SockRef::from(socket).local_addr().ok()?.as_socket()
    }

    /// Takes it over, whatever it is.
    ///
    /// # Errors
    /// `InvalidInput` if it is no listening stream socket.
    pub fn of(socket: OwnedFd) -> io::Result<Listener> {
        let other = || io::Error::new(io::ErrorKind::InvalidInput, "not a listening socket");
        let is_stream = sockopt::socket_type(&socket)? == SocketType::STREAM;
        if !is_stream || !sockopt::socket_acceptconn(&socket)? {
            return Err(other());
        }
        let listener = match sockopt::socket_domain(&socket)? {
            AddressFamily::UNIX => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                Listener::Unix(listener)
            }
            AddressFamily::INET | AddressFamily::INET6 => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Listener::Tcp(listener)
            }
            _ => return Err(other()),
        };
        Ok(listener)
    }
}

/// A listening socket that hands out streams.
#[derive(Debug)]
pub enum Acceptor {
    /// TCP.
    Tcp(TcpListener),
    /// Unix domain.
    Unix(UnixListener),
}

impl Acceptor {
    /// The next connection; over TCP with these options.
    ///
    /// # Errors
    /// The system's; a caller that meets EMFILE or ENFILE pauses a while.
    pub async fn accept(&self, options: impl FnOnce() -> SocketOptions) -> io::Result<Stream> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                options().apply(&stream);
                Ok(stream.into())
            }
            Acceptor::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(stream.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_both_families_and_an_empty_list_is_nothing() {
        let both = tcp_addresses("*", 6432).expect("no resolver needed");
        assert_eq!(both.len(), 2);
        assert_eq!(tcp_addresses(" , ", 6432).expect("nothing to resolve"), []);
    }

    #[test]
    fn only_a_listening_stream_is_taken_over() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        assert!(matches!(
            Listener::of(listener.into()),
            Ok(Listener::Tcp(_))
        ));
        let (connected, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let error = Listener::of(connected.into()).expect_err("no listener");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_address_in_use_is_named() {
        let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let first = tcp_listener(address, 8, false).expect("a free port");
        let taken = first.local_addr().expect("its address");
        let error = tcp_listener(taken, 8, false).expect_err("taken");
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }
}
