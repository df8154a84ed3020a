//! TLS towards servers: `server_tls_*`.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};

use super::ALPN;
use super::fault::TlsFault;
use super::files::{self, Pair};
use super::handshake::{HandshakeError, ServerTarget};
use super::settings::{Choice, Wishes};
use super::trust::{ServerCheck, ServerTrust};
use crate::config::{Pgbouncer, SslMode};

/// What a server answered to the question for TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Begin the handshake.
    Encrypt,
    /// Go on without TLS.
    Plain,
    /// It has no TLS, and that is not enough.
    Refused,
    /// It is no PostgreSQL.
    Nonsense,
}

/// How servers are spoken to.
#[derive(Debug, Clone, Default)]
pub struct ServerSide {
    mode: SslMode,
    /// None where the mode needs none, or no version is left.
    config: Option<Arc<ClientConfig>>,
    /// What it was made from.
    settings: Vec<String>,
}

/// Equal where connections made by one need not be made again by the other.
impl PartialEq for ServerSide {
    fn eq(&self, other: &ServerSide) -> bool {
        self.mode == other.mode
            && (self.mode == SslMode::Disable || self.settings == other.settings)
    }
}

impl ServerSide {
    pub(super) fn load(
        settings: &Pgbouncer,
        notes: &mut Vec<TlsFault>,
    ) -> Result<ServerSide, TlsFault> {
        let mode = settings.server_tls_sslmode;
        let mut side = ServerSide {
            mode,
            config: None,
            settings: vec![
                settings.server_tls_protocols.clone(),
                settings.server_tls_ciphers.clone(),
                settings.server_tls13_ciphers.clone().unwrap_or_default(),
                settings.server_tls_ca_file.clone(),
                settings.server_tls_key_file.clone(),
                settings.server_tls_cert_file.clone(),
            ],
        };
        if mode == SslMode::Disable {
            return Ok(side);
        }
        let wishes = Wishes {
            side: "server_tls",
            protocols: &settings.server_tls_protocols,
            ciphers: &settings.server_tls_ciphers,
            ciphers13: settings.server_tls13_ciphers.as_deref(),
            curve: "auto",
        };
        let choice = Choice::make(wishes, notes)?;
        let check = check(settings)?;
        let pair = pair(settings)?;
        if choice.versions.is_empty() {
            return Ok(side);
        }
        let provider = Arc::new(choice.provider);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&choice.versions)
            .map_err(|error| {
                let what = format!("TLS setup failed: {error}");
                let remedy = "Allow a version for which there is a cipher.";
                TlsFault::new("server_tls_protocols", what, remedy)
            })?;
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerTrust::new(check, &provider)));
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = pair.load(&provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        // PostgreSQL gives no tickets.
        config.resumption = Resumption::disabled();
        side.config = Some(Arc::new(config));
        Ok(side)
    }

    /// How a web server is spoken to, which has to prove its name by one of the
    /// authorities in this file, or by one that the system trusts if it is
    /// empty.
    ///
    /// # Errors
    /// There are none; `setting` names the file.
    pub fn of_web(setting: &str, ca_file: &str) -> Result<ServerSide, TlsFault> {
        let fault = |what: String| TlsFault::new(setting, what, format!("Set {setting}."));
        let authorities = files::authorities(setting, ca_file)?;
        let authorities =
            authorities.ok_or_else(|| fault("the system trusts no authority".to_owned()))?;
        let provider = Arc::new(ring::default_provider());
        let trust = ServerTrust::new(ServerCheck::ChainAndName(authorities), &provider);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| fault(format!("TLS setup failed: {error}")))?;
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust))
            .with_no_client_auth();
        Ok(ServerSide {
            mode: SslMode::VerifyFull,
            config: Some(Arc::new(config)),
            settings: vec![ca_file.to_owned()],
        })
    }

    /// Whether a server is asked for TLS.
    pub fn asks(&self, unix_socket: bool) -> bool {
        self.mode != SslMode::Disable && !unix_socket
    }

    /// What to do with a server's answer.
    pub fn on_answer(&self, answer: u8) -> Answer {
        match answer {
            b'S' => Answer::Encrypt,
            b'N' if self.mode >= SslMode::Require => Answer::Refused,
            b'N' => Answer::Plain,
            _ => Answer::Nonsense,
        }
    }

    /// Whether nothing but TLS will do, so that it need not be asked for.
    pub fn insists(&self) -> bool {
        self.mode >= SslMode::Require
    }

    /// How to speak TLS to the server that `host` names; `direct` without
    /// asking for it.
    ///
    /// # Errors
    /// There is no way.
    pub fn target(&self, host: &str, direct: bool) -> Result<ServerTarget, HandshakeError> {
        let mut config = self.config.clone().ok_or(HandshakeError::NoVersion)?;
        if direct {
            let mut named = ClientConfig::clone(&config);
            named.alpn_protocols = vec![ALPN.to_vec()];
            config = Arc::new(named);
        }
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if self.mode == SslMode::VerifyFull => {
                return Err(HandshakeError::NoName(host.to_owned()));
            }
            // Nobody looks at it.
            Err(_) => ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        };
        Ok(ServerTarget { config, name })
    }
}

/// What is asked of servers' certificates.
fn check(settings: &Pgbouncer) -> Result<ServerCheck, TlsFault> {
    let mode = settings.server_tls_sslmode;
    let file = &settings.server_tls_ca_file;
    if mode < SslMode::VerifyCa && file.is_empty() {
        return Ok(ServerCheck::Nothing);
    }
    let setting = "server_tls_ca_file";
    let authorities = files::authorities(setting, file)?.ok_or_else(|| {
        let what = format!(
            "server_tls_sslmode is {} but {setting} is not set, and the system trusts no authority",
            mode.as_str()
        );
        TlsFault::new(setting, what, format!("Set {setting}."))
    })?;
    Ok(match mode {
        SslMode::VerifyFull => ServerCheck::ChainAndName(authorities),
        SslMode::VerifyCa => ServerCheck::Chain(authorities),
        _ => ServerCheck::Nothing,
    })
}

/// The certificate that servers are shown, if there is one.
fn pair(settings: &Pgbouncer) -> Result<Option<Pair<'_>>, TlsFault> {
    let (key_file, cert_file) = (
        &settings.server_tls_key_file,
        &settings.server_tls_cert_file,
    );
    let (setting, other) = match (key_file.is_empty(), cert_file.is_empty()) {
        (true, true) => return Ok(None),
        (false, false) => {
            return Ok(Some(Pair {
                side: "server_tls",
                key_file,
                cert_file,
            }));
        }
        (false, true) => ("server_tls_key_file", "server_tls_cert_file"),
        (true, false) => ("server_tls_cert_file", "server_tls_key_file"),
    };
    let what = format!("{setting} is set but {other} is not");
    Err(TlsFault::new(setting, what, format!("Set {other}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(mode: SslMode) -> ServerSide {
        ServerSide {
            mode,
            ..ServerSide::default()
        }
    }

    #[test]
    fn a_server_without_tls_is_enough_up_to_prefer() {
        use Answer::{Encrypt, Nonsense, Plain, Refused};
        let cases = [
            (SslMode::Allow, Plain),
            (SslMode::Prefer, Plain),
            (SslMode::Require, Refused),
            (SslMode::VerifyCa, Refused),
            (SslMode::VerifyFull, Refused),
        ];
        for (mode, without) in cases {
            let side = side(mode);
            assert!(side.asks(false) && !side.asks(true), "{mode:?}");
            assert_eq!(side.on_answer(b'S'), Encrypt, "{mode:?}");
            assert_eq!(side.on_answer(b'N'), without, "{mode:?}");
            assert_eq!(side.on_answer(b'E'), Nonsense, "{mode:?}");
        }
        assert!(!side(SslMode::Disable).asks(false));
    }

    #[test]
    fn connections_are_made_again_where_the_settings_differ() {
        let with = |mode, ca: &str| ServerSide {
            settings: vec![ca.to_owned()],
            ..side(mode)
        };
        let require = with(SslMode::Require, "a");
        assert_eq!(require, with(SslMode::Require, "a"));
        assert_ne!(require, with(SslMode::Require, "b"));
        assert_ne!(require, with(SslMode::VerifyCa, "a"));
        assert_eq!(with(SslMode::Disable, "a"), with(SslMode::Disable, "b"));
    }

    #[test]
    fn a_host_that_no_certificate_can_name_fails_verify_full_alone() {
        let settings = |mode| Pgbouncer {
            server_tls_sslmode: mode,
            ..Pgbouncer::default()
        };
        let side = ServerSide::load(&settings(SslMode::Require), &mut Vec::new());
        let mut side = side.expect("no files are needed");
        assert!(side.target("no host", false).is_ok());
        side.mode = SslMode::VerifyFull;
        assert!(side.target("db.example", false).is_ok());
        assert!(matches!(
            side.target("no host", false),
            Err(HandshakeError::NoName(_))
        ));
    }

    #[test]
    fn settings_that_leave_no_version_load_and_fail_the_handshake() {
        let settings = Pgbouncer {
            server_tls_protocols: "tlsv1.0".into(),
            server_tls_sslmode: SslMode::Prefer,
            ..Pgbouncer::default()
        };
        let mut notes = Vec::new();
        let side = ServerSide::load(&settings, &mut notes).expect("it loads");
        assert_eq!(notes[0].setting, "server_tls_protocols");
        assert!(matches!(
            side.target("db", false),
            Err(HandshakeError::NoVersion)
        ));
    }

    #[test]
    fn half_a_pair_is_refused() {
        let settings = Pgbouncer {
            server_tls_key_file: "key".into(),
            server_tls_sslmode: SslMode::Require,
            ..Pgbouncer::default()
        };
        let fault = ServerSide::load(&settings, &mut Vec::new()).expect_err("no certificate");
        assert_eq!(fault.setting, "server_tls_key_file");
    }
}
