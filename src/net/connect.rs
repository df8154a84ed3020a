//! Reaching a server.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};

use super::{Names, SocketOptions, Stream};

/// Where a server is, as `host` of a database entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A host name or address.
    Name(String),
    /// A directory with PostgreSQL's Unix socket in it.
    Directory(PathBuf),
    /// A Unix socket in the abstract name space.
    Abstract(String),
}

impl Host {
    /// Reads one item of `host`.
    pub fn read(text: &str) -> Host {
        if let Some(name) = text.strip_prefix('@') {
            Host::Abstract(name.to_owned())
        } else if text.starts_with('/') {
            Host::Directory(text.into())
        } else {
            Host::Name(text.to_owned())
        }
    }
}

/// As `host` has it.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Directory(directory) => directory.display().fmt(f),
            Host::Abstract(name) => write!(f, "@{name}"),
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
            let path = directory.join(format!(".s.PGSQL.{port}"));
            Ok(UnixStream::connect(path).await?.into())
        }
        Host::Abstract(name) => {
            let name = format!("{name}/.s.PGSQL.{port}");
            let addr = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&addr)?;
            stream.set_nonblocking(true)?;
            Ok(UnixStream::from_std(stream)?.into())
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
        match TcpStream::connect(address).await {
            Ok(stream) => {
                options.apply(&stream);
                return Ok(Stream::from(stream));
            }
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_a_directory_or_abstract() {
        assert_eq!(Host::read("db.local"), Host::Name("db.local".into()));
        assert_eq!(Host::read("/run/pg"), Host::Directory("/run/pg".into()));
        assert_eq!(Host::read("@pg"), Host::Abstract("pg".into()));
    }
}
