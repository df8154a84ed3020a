//! A relay between two addresses.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::problem::{During, Problem};

/// Copies bytes between an address of its own and a port of this machine, and
/// does nothing else. Its connections end with it.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on any port of `at`.
    pub(crate) async fn open(at: Ipv4Addr, to: u16) -> Result<Relay, Problem> {
        const WHAT: &str = "opening a relay";
        let listener = TcpListener::bind((at, 0)).await.during(WHAT)?;
        let address = listener.local_addr().during(WHAT)?;
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while open.try_join_next().is_some() {}
                open.spawn(Relay::copy(client, to));
            }
        });
        Ok(Relay { address, task })
    }

    /// One connection; how it ends is its two ends' business.
    async fn copy(mut client: TcpStream, to: u16) -> std::io::Result<()> {
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
