//! Which host a client asks for.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::client_side::Offer;

/// The host one client asks for in its handshake (SNI, RFC 6066, section 3).
/// rustls tells it while it looks for a certificate, and not afterwards where
/// it holds no buffers.
pub struct Hearing {
    under: Arc<dyn ResolvesServerCert>,
    name: OnceLock<Box<str>>,
}

impl Hearing {
    /// The host; none if there is none, or nothing was heard yet.
    pub fn name(&self) -> Option<&str> {
        self.name.get().map(AsRef::as_ref)
    }
}

impl fmt::Debug for Hearing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hearing").field(&self.name).finish()
    }
}

impl ResolvesServerCert for Hearing {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            // It is asked again where the client has to say its hello again.
            let _same = self.name.set(name.into());
        }
        self.under.resolve(hello)
    }
}

impl Offer {
    /// The same for one connection, and what its client asks for.
    pub fn hearing(&self) -> (Offer, Arc<Hearing>) {
        let mut config = ServerConfig::clone(&self.config);
        let hearing = Arc::new(Hearing {
            under: Arc::clone(&config.cert_resolver),
            name: OnceLock::new(),
        });
        config.cert_resolver = Arc::clone(&hearing) as Arc<dyn ResolvesServerCert>;
        let offer = Offer {
            config: Arc::new(config),
            end_point: self.end_point.clone(),
        };
        (offer, hearing)
    }
}
