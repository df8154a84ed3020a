//! TLS towards clients: `client_tls_*`.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;

use super::ALPN;
use super::end_point::end_point;
use super::fault::TlsFault;
use super::files::{self, Pair};
use super::settings::{Choice, Wishes};
use super::trust::ClientTrust;
use crate::config::{AuthType, Pgbouncer, SslMode};

/// How clients are spoken to.
#[derive(Debug, Clone, Default)]
pub struct ClientSide {
    mode: SslMode,
    /// Some unless the mode is `disable`.
    offer: Option<Offer>,
}

/// How TLS is spoken with a client.
#[derive(Debug, Clone)]
pub struct Offer {
    pub(in crate::net) config: Arc<ServerConfig>,
    /// The hash of our certificate, which logins can be bound to.
    pub(in crate::net) end_point: Option<Arc<[u8]>>,
}

impl ClientSide {
    pub(super) fn load(
        settings: &Pgbouncer,
        notes: &mut Vec<TlsFault>,
    ) -> Result<ClientSide, TlsFault> {
        let mode = settings.client_tls_sslmode;
        complete(settings)?;
        if mode == SslMode::Disable {
            return Ok(ClientSide::default());
        }
        let wishes = Wishes {
            side: "client_tls",
            protocols: &settings.client_tls_protocols,
            ciphers: &settings.client_tls_ciphers,
            ciphers13: settings.client_tls13_ciphers.as_deref(),
            curve: &settings.client_tls_ecdhcurve,
        };
        let choice = Choice::make(wishes, notes)?;
        let pair = Pair {
            side: "client_tls",
            key_file: &settings.client_tls_key_file,
            cert_file: &settings.client_tls_cert_file,
        };
        let key = pair.load(&choice.provider)?;
        let end_point = key.cert.first().and_then(|der| end_point(der));
        let provider = Arc::new(choice.provider);
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&choice.versions)
            .map_err(|error| {
                let what = format!("TLS setup failed: {error}");
                let remedy = "Allow tlsv1.2 or tlsv1.3, and a cipher for it.";
                TlsFault::new("client_tls_protocols", what, remedy)
            })?;
        let mandatory = mode >= SslMode::VerifyCa;
        let file = &settings.client_tls_ca_file;
        let builder = match file.is_empty() && !mandatory {
            // Nothing a client could show would be taken.
            true => builder.with_no_client_auth(),
            false => {
                let setting = "client_tls_ca_file";
                let fault = |why: String| {
                    let what = format!("TLS setup failed: {setting} \"{file}\": {why}");
                    TlsFault::new(
                        setting,
                        what,
                        "Give a file with the authorities' certificates.",
                    )
                };
                let authorities = files::authorities(setting, file)?
                    .ok_or_else(|| fault("the system trusts no authority".to_owned()))?;
                let trust = ClientTrust::new(authorities, mandatory, &provider).map_err(fault)?;
                builder.with_client_cert_verifier(Arc::new(trust))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ignore_client_order = true;
        // A session may not outlive the settings it was made under.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(ClientSide {
            mode,
            offer: Some(Offer {
                config: Arc::new(config),
                end_point: end_point.map(Arc::from),
            }),
        })
    }

    /// Clients may ask for it.
    #[cfg(any(fuzzing, test))]
    pub(super) fn preferring(offer: Offer) -> ClientSide {
        ClientSide {
            mode: SslMode::Prefer,
            offer: Some(offer),
        }
    }

    /// How to speak TLS to a client that asks for it; none if it is told that
    /// there is no TLS.
    pub fn offer(&self, unix_socket: bool) -> Option<Offer> {
        self.offer.clone().filter(|_| !unix_socket)
    }

    /// Whether a client may log in without TLS.
    pub fn admits_plain(&self, unix_socket: bool) -> bool {
        unix_socket || self.mode < SslMode::Require
    }
}

/// Whether the settings name all that the mode needs, in PgBouncer's words.
fn complete(settings: &Pgbouncer) -> Result<(), TlsFault> {
    let mode = settings.client_tls_sslmode;
    let no_authorities = settings.client_tls_ca_file.is_empty();
    if mode != SslMode::Disable {
        let files = [
            ("client_tls_key_file", &settings.client_tls_key_file),
            ("client_tls_cert_file", &settings.client_tls_cert_file),
        ];
        if let Some((missing, _)) = files.into_iter().find(|(_, file)| file.is_empty()) {
            let what = "To allow TLS connections from clients, client_tls_key_file and \
                        client_tls_cert_file must be set.";
            return Err(TlsFault::new(
                "client_tls_sslmode",
                what,
                format!("Set {missing}."),
            ));
        }
    }
    let remedy = "Set client_tls_ca_file to the authorities that sign clients' certificates.";
    if settings.auth_type == AuthType::Cert {
        if mode != SslMode::VerifyFull {
            let what = "auth_type=cert requires client_tls_sslmode=verify-full";
            let remedy = "Set client_tls_sslmode to verify-full.";
            return Err(TlsFault::new("auth_type", what, remedy));
        }
        if no_authorities {
            let what = "auth_type=cert requires client_tls_ca_file";
            return Err(TlsFault::new("auth_type", what, remedy));
        }
    } else if mode == SslMode::VerifyFull && no_authorities {
        let what = "client_tls_sslmode requires client_tls_ca_file";
        return Err(TlsFault::new("client_tls_sslmode", what, remedy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [SslMode; 6] = [
        SslMode::Disable,
        SslMode::Allow,
        SslMode::Prefer,
        SslMode::Require,
        SslMode::VerifyCa,
        SslMode::VerifyFull,
    ];

    #[test]
    fn clients_may_do_without_tls_below_require_and_on_unix_sockets() {
        for (mode, plain) in MODES
            .into_iter()
            .zip([true, true, true, false, false, false])
        {
            let side = ClientSide { mode, offer: None };
            assert_eq!(side.admits_plain(false), plain, "{mode:?}");
            assert!(side.admits_plain(true), "{mode:?}");
        }
    }

    #[test]
    fn each_mode_says_which_files_it_lacks() {
        let cases = [
            (SslMode::Disable, [Ok(()), Ok(()), Ok(())]),
            (SslMode::Allow, [Err("client_tls_sslmode"), Ok(()), Ok(())]),
            (
                SslMode::Require,
                [Err("client_tls_sslmode"), Ok(()), Ok(())],
            ),
            (
                SslMode::VerifyCa,
                [Err("client_tls_sslmode"), Ok(()), Ok(())],
            ),
            (
                SslMode::VerifyFull,
                [Err("client_tls_sslmode"), Err("client_tls_sslmode"), Ok(())],
            ),
        ];
        for (mode, wanted) in cases {
            let mut settings = Pgbouncer {
                client_tls_sslmode: mode,
                ..Pgbouncer::default()
            };
            let mut found = Vec::new();
            let mut look = |settings: &Pgbouncer| {
                found.push(complete(settings).map_err(|fault| fault.setting));
            };
            look(&settings);
            settings.client_tls_key_file = "key".into();
            settings.client_tls_cert_file = "cert".into();
            look(&settings);
            settings.client_tls_ca_file = "ca".into();
            look(&settings);
            let wanted = wanted.map(|one| one.map_err(String::from));
            assert_eq!(found, wanted, "{mode:?}");
        }
    }

    #[test]
    fn certificates_as_logins_need_verify_full() {
        let mut settings = Pgbouncer {
            auth_type: AuthType::Cert,
            client_tls_key_file: "key".into(),
            client_tls_cert_file: "cert".into(),
            client_tls_ca_file: "ca".into(),
            ..Pgbouncer::default()
        };
        for mode in MODES {
            settings.client_tls_sslmode = mode;
            let taken = complete(&settings).is_ok();
            assert_eq!(taken, mode == SslMode::VerifyFull, "{mode:?}");
        }
    }
}
