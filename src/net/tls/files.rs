//! Keys and certificates in files.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::fault::TlsFault;
use super::trust::Authorities;

/// Where systems keep the authorities they trust; the first that exists.
const SYSTEM_AUTHORITIES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// The key and the certificate of one side.
pub(super) struct Pair<'a> {
    /// `client_tls`, `server_tls` or `balancer.tls`.
    pub(super) side: &'a str,
    pub(super) key_file: &'a str,
    pub(super) cert_file: &'a str,
}

impl Pair<'_> {
    /// Reads both files.
    ///
    /// # Errors
    /// One cannot be read, or they do not belong together.
    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsFault> {
        let chain = certificates(&format!("{}_cert_file", self.side), self.cert_file)?;
        let setting = format!("{}_key_file", self.side);
        let fault = |why: String, remedy: &str| {
            let what = format!(
                "TLS setup failed: private key file \"{}\": {why}",
                self.key_file
            );
            TlsFault::new(&*setting, what, remedy)
        };
        let text = read(&setting, self.key_file)?;
        let key =
            PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
                match memchr::memmem::find(&text, b"ENCRYPTED").is_some() {
                    true => fault(
                        "it is encrypted".to_owned(),
                        "Store the key without a passphrase, readable by this user alone.",
                    ),
                    false => fault(error.to_string(), "Give a file with a private key in PEM."),
                }
            })?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| {
                fault(
                    error.to_string(),
                    "Give an RSA, ECDSA (P-256, P-384) or Ed25519 key.",
                )
            })?;
        // Not rustls's own check: it takes no certificate of version 1.
        let own = key.public_key();
        let certified = chain.first().and_then(|leaf| Certificate::read(leaf));
        let certified = certified.map(|certificate| certificate.key_info);
        if own.is_some_and(|own| certified != Some(own.as_ref())) {
            return Err(fault(
                format!(
                    "it is not the key of certificate file \"{}\"",
                    self.cert_file
                ),
                "Give the key and the certificate that belong together.",
            ));
        }
        Ok(CertifiedKey::new(chain, key))
    }
}

/// Reads a CA file; with an empty name the system's. None if the system has
/// none.
///
/// # Errors
/// It cannot be read.
pub(super) fn authorities(setting: &str, file: &str) -> Result<Option<Authorities>, TlsFault> {
    let system = || {
        SYSTEM_AUTHORITIES
            .into_iter()
            .find(|path| Path::new(path).exists())
    };
    let Some(file) = Some(file).filter(|file| !file.is_empty()).or_else(system) else {
        return Ok(None);
    };
    let found = Authorities::new(certificates(setting, file)?);
    let found = found.map_err(|error| {
        let what = format!("TLS setup failed: CA file \"{file}\": {error}");
        TlsFault::new(
            setting,
            what,
            "Give a file with the authorities' certificates in PEM.",
        )
    })?;
    Ok(Some(found))
}

/// The first certificate in a file's text, if there is one.
pub(super) fn first_certificate(text: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text).next()?.ok()
}

/// The certificates in a file, one at least.
fn certificates(setting: &str, file: &str) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let text = read(setting, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let why = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "it holds none".to_owned(),
        Err(error) => error.to_string(),
    };
    let what = format!("TLS setup failed: certificate file \"{file}\": {why}");
    Err(TlsFault::new(
        setting,
        what,
        "Give a file with certificates in PEM.",
    ))
}

/// Writes a file so that at no time half of it is there. `mode` is its
/// permissions.
///
/// # Errors
/// It cannot be written. What was there before stays.
pub fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn read(setting: &str, file: &str) -> Result<Vec<u8>, TlsFault> {
    fs::read(file).map_err(|error| {
        let what = format!("TLS setup failed: {setting} \"{file}\": {error}");
        TlsFault::new(setting, what, "Give a file that this user can read.")
    })
}
