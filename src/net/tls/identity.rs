//! The key and the certificate a web site shows, replaced while it is served.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use sha2::{Digest, Sha256};

use super::certificate::Certificate;
use super::client_side::Offer;
use super::fault::TlsFault;
use super::files::Pair;
#[cfg(feature = "acme")]
use super::validation::Validation;

/// Where a site's key and certificate are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate, and those that lead to its authority behind it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A site's key and certificate. All configurations made from it show what it
/// holds at the time of a handshake, over TCP and QUIC alike.
pub struct Identity {
    current: ArcSwap<CertifiedKey>,
    #[cfg(feature = "acme")]
    validation: Validation,
}

impl From<CertifiedKey> for Identity {
    fn from(key: CertifiedKey) -> Identity {
        Identity {
            current: ArcSwap::from_pointee(key),
            #[cfg(feature = "acme")]
            validation: Validation::default(),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them: they cannot be read, do not belong together,
    /// or do not hold today.
    pub fn load(files: &IdentityFiles) -> Result<Arc<Identity>, TlsFault> {
        Ok(Arc::new(read(files)?.into()))
    }

    /// Shows this.
    #[cfg(any(fuzzing, test))]
    pub(super) fn of(key: CertifiedKey) -> Arc<Identity> {
        Arc::new(key.into())
    }

    /// Reads the files again and shows what they hold from now on. On an error
    /// it goes on with what it has.
    ///
    /// # Errors
    /// As of [`Identity::load`].
    pub fn reload(&self, files: &IdentityFiles) -> Result<(), TlsFault> {
        self.current.store(Arc::new(read(files)?));
        Ok(())
    }

    /// The SHA-256 of its public key (SubjectPublicKeyInfo) in base64, as
    /// browsers pin it.
    pub fn key_hash(&self) -> String {
        self.leaf(|leaf| STANDARD.encode(Sha256::digest(leaf.key_info)))
            .unwrap_or_default()
    }

    /// When its certificate ceases to hold.
    pub fn expires(&self) -> SystemTime {
        self.validity()[1]
    }

    /// When its certificate begins to hold, and when it ceases to.
    pub fn validity(&self) -> [SystemTime; 2] {
        let (first, last) = self.leaf(|leaf| leaf.validity).unwrap_or_default();
        let time = |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        [first, last].map(|seconds| UNIX_EPOCH + time(seconds))
    }

    /// The DNS names its certificate is for, in small letters.
    pub fn names(&self) -> Vec<String> {
        let names = |leaf: Certificate<'_>| {
            let names = leaf.dns_names().into_iter();
            names.map(str::to_ascii_lowercase).collect()
        };
        self.leaf(names).unwrap_or_default()
    }

    /// Has an authority that validates a name (RFC 8737) answered: `answer` says
    /// the key authorization for a name while one is expected. It is asked in
    /// the handshake, of those who come for that alone, and may take no longer
    /// than looking into a file. For one caller, before anything is served.
    #[cfg(feature = "acme")]
    pub fn validate_by(&self, answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        self.validation.set(answer);
    }

    fn leaf<T>(&self, ask: impl FnOnce(Certificate<'_>) -> T) -> Option<T> {
        let current = self.current.load();
        let leaf = current.cert.first()?;
        Certificate::read(leaf).map(ask)
    }

    /// How TLS is spoken with clients over TCP that ask for one of these
    /// protocols (ALPN), or for none.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn over_tcp(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<Offer, TlsFault> {
        Ok(Offer {
            config: Arc::new(self.config(protocols)?),
            end_point: None,
        })
    }

    /// How QUIC's handshake is made with clients that ask for one of these
    /// protocols.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn over_quic(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<ServerConfig, TlsFault> {
        self.config(protocols)
    }

    fn config(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<ServerConfig, TlsFault> {
        let fault = |error: rustls::Error| {
            let what = format!("TLS setup failed: {error}");
            TlsFault::new("balancer.https_listen", what, "Give the system entropy.")
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(fault)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        // Sessions are resumed by what the client keeps, under keys that change
        // by themselves; nothing is kept here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().map_err(fault)?;
        config.send_tls13_tickets = 1;
        Ok(config)
    }
}

impl ResolvesServerCert for Identity {
    #[cfg(feature = "acme")]
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.validation.is_wanted(&hello) {
            true => self.validation.certificate(hello.server_name()?),
            false => Some(self.current.load_full()),
        }
    }

    #[cfg(not(feature = "acme"))]
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(files: &IdentityFiles) -> Result<CertifiedKey, TlsFault> {
    let pair = Pair {
        side: "balancer.tls",
        key_file: &text(&files.key),
        cert_file: &text(&files.certificate),
    };
    let key = pair.load(&ring::default_provider())?;
    let leaf = key.cert.first().and_then(|leaf| Certificate::read(leaf));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
    let fault = |why: &str| {
        let file = files.certificate.display();
        let what = format!("TLS setup failed: certificate file \"{file}\": {why}");
        TlsFault::new(
            "balancer.tls_cert_file",
            what,
            "Give a certificate that holds today.",
        )
    };
    match leaf {
        None => Err(fault("its first certificate is malformed")),
        Some(leaf) if now > leaf.validity.1 => Err(fault("it has expired")),
        Some(leaf) if now < leaf.validity.0 => Err(fault("it does not hold yet")),
        Some(_) => Ok(key),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
