//! Reaching a server.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};

use super::{SocketOptions, Stream, UnixAddress};

/// Where a server is, as `host` of a database entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A host name or address.
    Name(String),
    /// A directory with PostgreSQL's Unix socket in it, or `@` and what stands
    /// for one in the abstract name space.
    Directory(String),
}

impl Host {
    /// Reads one item of `host`.
    pub fn read(text: &str) -> Host {
        if text.starts_with(['/', '@']) {
            Host::Directory(text.to_owned())
        } else {
            Host::Name(text.to_owned())
        }
    }
}

/// As `host` has it.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(text) | Host::Directory(text) => f.write_str(text),
        }
    }
}

/// Connects. The caller sets the deadline.
///
/// Of a name with several addresses the one numbered `first`, counted round
/// and round, is tried first, and the others when it fails.
///
/// # Errors
/// The last one met; for names without an address, that.
pub async fn connect(
    host: &Host,
    port: u16,
    first: usize,
    options: &SocketOptions,
) -> io::Result<Stream> {
    match host {
        Host::Name(name) => connect_tcp(name, port, first, options).await,
        Host::Directory(directory) => {
            let address = UnixAddress::new(directory, port).socket_addr()?;
            let stream = UnixStream::connect_addr(&address.into()).await;
            stream.map(Stream::from)
        }
    }
}

async fn connect_tcp(
    name: &str,
    port: u16,
    first: usize,
    options: &SocketOptions,
) -> io::Result<Stream> {
    let addresses: Vec<_> = lookup_host((name, port)).await?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for step in 0..addresses.len() {
        let address = addresses[(first + step) % addresses.len()];
        match connect_address(address, options).await {
            Ok(stream) => return Ok(Stream::from(stream)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn connect_address(address: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    options.apply(&socket);
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_a_directory() {
        assert_eq!(Host::read("db.local"), Host::Name("db.local".into()));
        assert_eq!(Host::read("/run/pg"), Host::Directory("/run/pg".into()));
        assert_eq!(Host::read("@pg"), Host::Directory("@pg".into()));
    }
}
