//! One host of the cluster: how to reach it and who we are there.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::DbError;
use super::tls::{self, Way};
use super::wire::Socket;
use super::{Abandon, Proto};
use crate::config::{Host, PostgresCluster};

/// How long a cancel request may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How this client behaves towards a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    pub(crate) proto: Proto,
    pub(crate) abandon: Abandon,
}

/// A host with the identity to use there. No `Debug`: it holds the password.
pub(crate) struct Target {
    host: Host,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: String,
    pub(super) ways: &'static [Way],
    tls: Arc<ClientConfig>,
    pub(super) habits: Habits,
}

/// What a cancel request needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct CancelKey {
    pub(super) process: i32,
    pub(super) secret: i32,
}

impl Target {
    /// # Errors
    /// `ssl_mode` or a TLS file is unusable.
    pub(super) fn new(
        host: &Host,
        cluster: &PostgresCluster,
        habits: Habits,
    ) -> Result<Target, DbError> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let (ways, tls) =
            tls::settings(&cluster.ssl_mode, home.as_deref()).map_err(DbError::Tls)?;
        Ok(Target {
            host: host.clone(),
            user: cluster.user.clone(),
            password: cluster.password.clone(),
            database: cluster.db_name.clone(),
            ways,
            tls,
            habits,
        })
    }

    /// Opens a socket to the host.
    pub(super) async fn socket(&self, way: Way) -> Result<Box<dyn Socket>, DbError> {
        let stream = TcpStream::connect((self.host.address.as_str(), self.host.port)).await?;
        stream.set_nodelay(true)?;
        match way {
            Way::Plain => Ok(Box::new(stream)),
            Way::Tls => self.encrypt(stream).await,
        }
    }

    async fn encrypt(&self, mut stream: TcpStream) -> Result<Box<dyn Socket>, DbError> {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await?;
        if stream.read_u8().await? != b'S' {
            return Err(DbError::Tls("the server refuses TLS connections".into()));
        }
        let name = ServerName::try_from(self.host.address.clone())
            .map_err(|e| DbError::Tls(format!("{}: {e}", self.host.address)))?;
        let connector = TlsConnector::from(self.tls.clone());
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(DbError::Tls(e.to_string())),
        }
    }

    /// Asks the server to cancel what the connection with `key` is doing.
    /// Returns when the server has taken note, or could not be reached.
    pub(super) async fn cancel(&self, way: Way, key: CancelKey) {
        let request = async {
            let mut socket = self.socket(way).await?;
            let mut message = BytesMut::new();
            frontend::cancel_request(key.process, key.secret, &mut message);
            socket.write_all(&message).await?;
            socket.flush().await?;
            // The server closes the connection when the signal is sent.
            let _ = socket.read_u8().await;
            Ok::<_, DbError>(())
        };
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, request).await;
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host.address, self.host.port)
    }
}
