//! Reaching a server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::{Names, SocketOptions, Stream, UnixAddress};

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

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The name has no address, or nobody could be asked.
    Lookup(io::Error),
    /// Nobody answers there, or no socket could be made.
    Socket(io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> ConnectError {
        ConnectError::Socket(error)
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> io::Error {
        match error {
            ConnectError::Lookup(error) | ConnectError::Socket(error) => error,
        }
    }
}

/// Connects. The caller sets the deadline.
///
/// Of a name with several addresses the one whose turn it is is tried first,
/// and the others when it fails.
///
/// # Errors
/// The last one met, unless the name has no address.
pub async fn connect(
    host: &Host,
    port: u16,
    names: &Arc<Names>,
    options: &SocketOptions,
) -> Result<Stream, ConnectError> {
    match host {
        Host::Name(name) => {
            let addresses = names.addresses(name).await;
            let addresses = addresses.map_err(ConnectError::Lookup)?;
            connect_tcp(&addresses, port, options).await
        }
        Host::Directory(directory) => {
            let address = UnixAddress::new(directory, port).socket_addr()?;
            let stream = UnixStream::connect_addr(&address.into()).await?;
            Ok(stream.into())
        }
    }
}

async fn connect_tcp(
    addresses: &[SocketAddr],
    port: u16,
    options: &SocketOptions,
) -> Result<Stream, ConnectError> {
    let none = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut failure = ConnectError::Lookup(none);
    for address in addresses {
        let mut address = *address;
        address.set_port(port);
        match connect_address(address, options).await {
            Ok(stream) => return Ok(Stream::from(stream)),
            Err(error) => failure = error.into(),
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
