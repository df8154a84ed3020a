//! The site that is served over TLS: what it shows clients, and what it tells
//! them of HTTP/3.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use hyper::header::HeaderValue;
use hyper::http::uri::Authority;

use super::acme::Acme;
use super::metrics::Metrics;
use super::secure::PROTOCOLS;
use crate::config;
use crate::net::tls::{Identity, IdentityFiles, TlsFault, keep_self_signed};

/// Time between two looks at the certificate's files.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Where state is kept if nobody says where.
const STATE_DIR: &str = "/var/lib/pgweir";

/// For how long a client may remember that HTTP/3 is served, in seconds.
const REMEMBER_SECONDS: u32 = 3600;

/// One HTTPS listener, as its clients see it.
#[derive(Debug)]
pub(crate) struct Site {
    /// What clients are told while HTTP/3 works; none if it is switched off.
    offer: Option<HeaderValue>,
    works: AtomicBool,
    /// `domain`, in small letters.
    names: Vec<String>,
}

impl Site {
    /// A listener on this port. `http3` says whether it is to be had there too.
    pub(crate) fn new(port: u16, http3: bool, names: &[String]) -> Site {
        let offer = format!("h3=\":{port}\"; ma={REMEMBER_SECONDS}");
        let offer = HeaderValue::from_str(&offer).expect("digits and plain words");
        Site {
            offer: http3.then_some(offer),
            works: AtomicBool::new(false),
            names: names.iter().map(|it| it.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether there are any names.
    pub(crate) fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// Whether this is one of its names. `*.` in one stands for one label.
    pub(crate) fn is_named(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let rest = host.split_once('.').map(|(_, rest)| rest);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => rest == Some(parent),
            None => *name == host,
        })
    }

    /// Whether requests for this authority are for it: one of its names,
    /// `localhost`, or any address.
    pub(crate) fn serves(&self, authority: &HeaderValue) -> bool {
        let Ok(authority) = Authority::try_from(authority.as_bytes()) else {
            return false;
        };
        let host = authority.host();
        let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
        is_address || host.eq_ignore_ascii_case("localhost") || self.is_named(host)
    }

    /// HTTP/3 can be had from now on, or not any more.
    pub(crate) fn set_works(&self, works: bool) {
        self.works.store(works, Ordering::Relaxed);
    }

    /// What to say of it in `Alt-Svc` (RFC 7838).
    pub(crate) fn alternative(&self) -> Option<HeaderValue> {
        let offer = self.offer.as_ref()?;
        Some(match self.works.load(Ordering::Relaxed) {
            true => offer.clone(),
            false => HeaderValue::from_static("clear"),
        })
    }
}

/// The site's certificate and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) identity: Arc<Identity>,
    /// Who keeps it, if an authority issues it.
    pub(crate) acme: Option<Acme>,
    /// What is offered over TCP (ALPN).
    pub(crate) protocols: Vec<&'static [u8]>,
    files: IdentityFiles,
    /// What the files looked like when they were last read.
    seen: Seen,
    /// The file that is shown.
    shown: PathBuf,
}

/// What changes when a file changes: its number, its size and its time.
type Look = (u64, u64, i64, i64);

/// A look at both files.
type Seen = [Option<Look>; 2];

impl Certificate {
    /// The certificate that the settings name, the one that an authority has
    /// issued, or the self-signed one. The last two give way to the one that
    /// will be issued.
    ///
    /// # Errors
    /// It cannot be had, with the setting that has to change.
    pub(crate) fn find(settings: &config::Balancer) -> io::Result<Certificate> {
        let folder = state_dir(settings);
        let acme = Acme::new(settings, &folder)?;
        // The configuration has both or none.
        let named = settings
            .tls_cert_file
            .clone()
            .zip(settings.tls_key_file.clone())
            .map(|(certificate, key)| IdentityFiles { certificate, key });
        let files = match (named, &acme) {
            (Some(named), _) => named,
            (None, Some(acme)) => acme.files(),
            (None, None) => self_signed(settings, &folder)?,
        };
        let seen = look(&files);
        let (identity, shown) = match (Identity::load(&files), &acme) {
            (Ok(identity), _) => (identity, files.certificate.clone()),
            (Err(fault), None) => return Err(invalid(fault)),
            (Err(fault), Some(_)) => {
                if seen != Seen::default() {
                    tracing::warn!("{fault}; a self-signed certificate is shown meanwhile");
                }
                let instead = self_signed(settings, &folder)?;
                let identity = Identity::load(&instead).map_err(invalid)?;
                (identity, instead.certificate)
            }
        };
        let asked = acme.as_ref().and_then(|it| it.answer_by(&identity));
        Ok(Certificate {
            identity,
            acme,
            protocols: PROTOCOLS.into_iter().chain(asked).collect(),
            files,
            seen,
            shown,
        })
    }

    /// Tells what is shown: the hash is what `--ignore-certificate-errors-spki-list`
    /// of Chromium takes.
    pub(crate) fn tell(&self, metrics: &Metrics) {
        let expires = self.identity.expires();
        let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = seconds.as_secs();
        metrics.certificate_expires(seconds);
        let date = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or_default());
        let date = date.map_or_else(|_| String::new(), |it| it.strftime("%F").to_string());
        tracing::info!(
            "certificate {}: SHA-256 of its public key {}, holds until {date}",
            self.shown.display(),
            self.identity.key_hash(),
        );
    }

    /// Follows the files for ever: what they hold is shown, if it is good.
    pub(crate) async fn follow(mut self, metrics: Arc<Metrics>) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let looking = tokio::task::spawn_blocking(move || {
                let changed = self.look_again();
                (self, changed)
            });
            let Ok((certificate, changed)) = looking.await else {
                return tracing::error!("the certificate is not followed any more");
            };
            self = certificate;
            match changed {
                None => {}
                Some(Ok(())) => {
                    metrics.certificate_is_stale(false);
                    self.tell(&metrics);
                }
                Some(Err(fault)) => {
                    metrics.certificate_is_stale(true);
                    tracing::error!("{fault}; the certificate before it stays. {}", fault.remedy);
                }
            }
        }
    }

    /// Reads the files again if they have changed. Both are looked at before
    /// they are read: what changes while they are read is seen the next time.
    fn look_again(&mut self) -> Option<Result<(), TlsFault>> {
        let seen = look(&self.files);
        if seen == self.seen {
            return None;
        }
        self.seen = seen;
        let read = self.identity.reload(&self.files);
        if read.is_ok() {
            self.shown.clone_from(&self.files.certificate);
        }
        Some(read)
    }
}

fn look(files: &IdentityFiles) -> Seen {
    [&files.certificate, &files.key].map(|file| {
        let found = fs::metadata(file).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    })
}

fn self_signed(settings: &config::Balancer, folder: &Path) -> io::Result<IdentityFiles> {
    keep_self_signed(folder, &settings.domain).map_err(invalid)
}

/// Where state is kept.
pub(crate) fn state_dir(settings: &config::Balancer) -> PathBuf {
    settings.state_dir.clone().unwrap_or_else(default_state_dir)
}

/// The first folder that systemd names, or the usual one.
fn default_state_dir() -> PathBuf {
    let given = std::env::var_os("STATE_DIRECTORY");
    let first = given
        .as_deref()
        .and_then(|all| std::env::split_paths(all).next());
    first.unwrap_or_else(|| STATE_DIR.into())
}

pub(crate) fn invalid(fault: TlsFault) -> io::Error {
    let problem = format!("{}: {}. {}", fault.setting, fault.what, fault.remedy);
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_3_is_offered_while_it_works_and_withdrawn_when_it_does_not() {
        let site = Site::new(8443, true, &[]);
        assert_eq!(site.alternative().expect("something"), "clear");
        site.set_works(true);
        assert_eq!(
            site.alternative().expect("something"),
            "h3=\":8443\"; ma=3600"
        );
        let site = Site::new(8443, false, &[]);
        site.set_works(true);
        assert_eq!(site.alternative(), None);
    }

    #[test]
    fn a_site_serves_its_names_and_every_address() {
        let names = ["Shop.example", "*.shop.example"].map(str::to_owned);
        let site = Site::new(443, false, &names);
        for host in ["shop.example", "SHOP.example.", "www.shop.example"] {
            assert!(site.is_named(host), "{host}");
        }
        for host in [
            "example",
            "a.b.shop.example",
            "shop.example.org",
            "",
            "localhost",
        ] {
            assert!(!site.is_named(host), "{host}");
        }
        for (authority, is_served) in [
            ("shop.example:8443", true),
            ("www.Shop.example", true),
            ("localhost", true),
            ("192.0.2.1:80", true),
            ("[::1]:80", true),
            ("other.example", false),
            ("xshop.example", false),
        ] {
            let authority = HeaderValue::from_static(authority);
            assert_eq!(site.serves(&authority), is_served, "{authority:?}");
        }
    }
}
