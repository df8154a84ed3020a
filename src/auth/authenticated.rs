//! The proof that a client has passed its check.

use super::credential::Credential;
use super::hba::IdentMap;
use super::reason::{CertificateFault, PeerFault, Reason};
use super::scram::ScramKeys;
use super::secret::{Plaintext, Secret};
use std::sync::Arc;

/// A client that may log in as [`user`](Authenticated::user).
///
/// Made only by this module's exchanges, so holding one is the proof.
#[derive(Debug, Clone)]
pub struct Authenticated {
    user: Box<str>,
    credential: Option<Arc<Credential>>,
}

impl Authenticated {
    pub(super) fn new(user: Box<str>, credential: Option<Arc<Credential>>) -> Self {
        Authenticated { user, credential }
    }

    /// Admits user `pgbouncer` on the console's Unix socket without a
    /// password, if the process at the other end runs as the same OS user
    /// (`peer_uid` from SO_PEERCRED, `own_uid` the pooler's).
    pub fn console_peer(user: &str, peer_uid: u32, own_uid: u32) -> Option<Self> {
        let admitted = user == "pgbouncer" && peer_uid == own_uid;
        admitted.then(|| Authenticated::new(user.into(), None))
    }

    /// Admits a client of a Unix socket whose process runs as `system_user`,
    /// if that is the user's own name or `map` connects the two. Nobody knows
    /// a user without a `credential`.
    ///
    /// # Errors
    /// [`Reason::Peer`].
    pub fn by_peer(
        user: &str,
        credential: Option<&Arc<Credential>>,
        system_user: Option<&str>,
        map: Option<&IdentMap>,
    ) -> Result<Self, Reason> {
        let fault = match (system_user, credential, map) {
            (None, ..) => PeerFault::NoSystemUser,
            (_, None, _) => PeerFault::NoSuchUser(user.into()),
            (Some(system_user), _, Some(map)) => {
                if map.admits(|name| name == system_user.as_bytes(), user) {
                    return Ok(Authenticated::new(user.into(), credential.cloned()));
                }
                PeerFault::NotMapped(map.name.as_str().into())
            }
            (Some(system_user), ..) if system_user == user => {
                return Ok(Authenticated::new(user.into(), credential.cloned()));
            }
            _ => PeerFault::OtherName,
        };
        Err(Reason::Peer(fault))
    }

    /// Admits a client with a verified certificate that names the user, or
    /// that `map` connects with it. Nobody knows a user without a
    /// `credential`.
    ///
    /// # Errors
    /// [`Reason::Certificate`].
    pub fn by_certificate(
        user: &str,
        credential: Option<&Arc<Credential>>,
        certificate: Option<&CertificateNames>,
        map: Option<&IdentMap>,
    ) -> Result<Self, Reason> {
        let fault = match (certificate, credential, map) {
            (None, ..) => CertificateFault::Missing,
            (_, None, _) => CertificateFault::NoSuchUser(user.into()),
            (Some(certificate), _, Some(map)) => {
                if map.admits(|name| certificate.hold(name), user) {
                    return Ok(Authenticated::new(user.into(), credential.cloned()));
                }
                CertificateFault::NotMapped(map.name.as_str().into())
            }
            (Some(certificate), ..) if certificate.hold(user.as_bytes()) => {
                return Ok(Authenticated::new(user.into(), credential.cloned()));
            }
            _ => CertificateFault::OtherName,
        };
        Err(Reason::Certificate(fault))
    }

    /// Admits a client whose password somebody else has found right: who calls
    /// this has asked.
    pub fn vouched(user: &str, password: Plaintext) -> Self {
        let credential = Credential::new(Secret::Plain(password));
        Authenticated::new(user.into(), Some(Arc::new(credential)))
    }

    /// The name that was proven (with `auth_type=any`: merely said).
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What a [`ServerExchange`](super::ServerExchange) may log in with for
    /// this client where no forced user says otherwise.
    ///
    /// After `plain` it holds the password that was typed, whatever kind of
    /// secret it matched; after SCRAM against a stored verifier it remembers
    /// the keys for pass-through; else it is the stored secret. `None` if the
    /// user has none (`any`, the console's peer).
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.as_ref()
    }

    /// The password in the clear, if it is known.
    pub fn password(&self) -> Option<&Plaintext> {
        match self.credential.as_ref()?.secret() {
            Secret::Plain(password) if !password.is_empty() => Some(password),
            _ => None,
        }
    }

    /// The SCRAM keys for pass-through, if this client or one before it
    /// revealed them.
    pub fn scram_keys(&self) -> Option<&ScramKeys> {
        self.credential.as_ref()?.scram_keys()
    }
}

/// The names in a certificate that the client presented and that has been
/// verified against the authorities of `client_tls_ca_file`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateNames {
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// Its DNS names.
    pub dns_names: Vec<String>,
}

impl CertificateNames {
    fn hold(&self, name: &[u8]) -> bool {
        let mut names = self.common_name.iter().chain(&self.dns_names);
        !name.is_empty() && names.any(|known| known.as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hba::IdentMaps;
    use super::*;

    fn known() -> Option<Arc<Credential>> {
        Some(Arc::new(Credential::new(Secret::none())))
    }

    fn map() -> Arc<IdentMap> {
        let (maps, _) = IdentMaps::parse(b"m root ann\nm www all\n");
        maps.get(b"m").expect("a map").clone()
    }

    fn peer_fault(user: &str, system_user: Option<&str>, map: Option<&IdentMap>) -> PeerFault {
        match Authenticated::by_peer(user, known().as_ref(), system_user, map) {
            Err(Reason::Peer(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_is_admitted_under_its_own_name() {
        let admitted = Authenticated::by_peer("ann", known().as_ref(), Some("ann"), None);
        assert_eq!(admitted.expect("the same").user(), "ann");
        assert_eq!(peer_fault("ann", Some("bob"), None), PeerFault::OtherName);
        assert_eq!(peer_fault("ann", None, None), PeerFault::NoSystemUser);
    }

    #[test]
    fn a_map_replaces_the_comparison_of_names() {
        let map = map();
        let admits = |system_user, user| {
            Authenticated::by_peer(user, known().as_ref(), Some(system_user), Some(&map)).is_ok()
        };
        assert!(admits("root", "ann") && admits("www", "bob"));
        assert!(!admits("root", "bob") && !admits("ann", "ann"));
        assert_eq!(
            peer_fault("bob", Some("root"), Some(&map)),
            PeerFault::NotMapped("m".into())
        );
    }

    #[test]
    fn a_user_whom_nobody_knows_is_admitted_by_neither() {
        let names = CertificateNames {
            common_name: Some("ann".into()),
            dns_names: Vec::new(),
        };
        let peer = Authenticated::by_peer("ann", None, Some("ann"), None);
        let fault = PeerFault::NoSuchUser("ann".into());
        assert_eq!(peer.expect_err("unknown"), Reason::Peer(fault));
        let certified = Authenticated::by_certificate("ann", None, Some(&names), None);
        let fault = CertificateFault::NoSuchUser("ann".into());
        assert_eq!(certified.expect_err("unknown"), Reason::Certificate(fault));
    }

    #[test]
    fn a_certificate_admits_by_common_name_and_by_dns_name() {
        let names = CertificateNames {
            common_name: Some("ann".into()),
            dns_names: vec!["bob".into(), "".into()],
        };
        let fault = |user: &str, names: Option<&CertificateNames>, map: Option<&IdentMap>| {
            match Authenticated::by_certificate(user, known().as_ref(), names, map) {
                Ok(_) => None,
                Err(Reason::Certificate(fault)) => Some(fault),
                Err(other) => panic!("{other:?}"),
            }
        };
        assert_eq!(fault("ann", Some(&names), None), None);
        assert_eq!(fault("bob", Some(&names), None), None);
        let other = Some(CertificateFault::OtherName);
        assert_eq!(fault("carol", Some(&names), None), other);
        assert_eq!(fault("", Some(&names), None), other);
        assert_eq!(fault("ann", None, None), Some(CertificateFault::Missing));
        let not_mapped = Some(CertificateFault::NotMapped("m".into()));
        assert_eq!(fault("ann", Some(&names), Some(&map())), not_mapped);
        let of_host = CertificateNames {
            common_name: Some("www".into()),
            dns_names: Vec::new(),
        };
        assert_eq!(fault("carol", Some(&of_host), Some(&map())), None);
    }

    #[test]
    fn the_console_admits_its_own_uid_only() {
        assert!(Authenticated::console_peer("pgbouncer", 70, 70).is_some());
        assert!(Authenticated::console_peer("pgbouncer", 71, 70).is_none());
        assert!(Authenticated::console_peer("postgres", 70, 70).is_none());
    }
}
