//! The ways HTTP travels, and what a client has to know of the server for
//! those that are encrypted.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::problem::{During, Problem};

/// How a site is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// HTTP/1.1 in clear.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    Http2,
    Http3,
}

impl Protocol {
    /// What a check of all versions of HTTP is made with.
    pub(crate) const VERSIONS: [Protocol; 3] = [Protocol::Plain, Protocol::Http2, Protocol::Http3];

    /// Its name in a TLS handshake (RFC 7301).
    fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Plain | Protocol::Tls => b"http/1.1",
            Protocol::Http2 => b"h2",
            Protocol::Http3 => b"h3",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Plain => "HTTP/1.1",
            Protocol::Tls => "HTTP/1.1 over TLS",
            Protocol::Http2 => "HTTP/2",
            Protocol::Http3 => "HTTP/3",
        })
    }
}

/// A domain and the one certificate that is accepted for it. It may be
/// self-signed, but must name the domain and hold today.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    pub(crate) domain: String,
    roots: Arc<RootCertStore>,
}

impl Trust {
    /// Of a certificate in PEM.
    pub(crate) fn read(domain: &str, certificate: &Path) -> Result<Trust, Problem> {
        let read = CertificateDer::from_pem_file(certificate);
        let mut roots = RootCertStore::empty();
        roots
            .add(read.during(certificate.display())?)
            .during(certificate.display())?;
        Ok(Trust {
            domain: domain.to_owned(),
            roots: Arc::new(roots),
        })
    }

    /// The same certificate for another domain.
    pub(crate) fn but_for(&self, domain: &str) -> Trust {
        Trust {
            domain: domain.to_owned(),
            ..self.clone()
        }
    }

    /// What is asked for by SNI.
    pub(super) fn name(&self) -> ServerName<'static> {
        ServerName::try_from(self.domain.clone()).expect("domains of this program are names")
    }

    /// A client of one protocol.
    pub(super) fn client(&self, protocol: Protocol) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        config
    }
}
