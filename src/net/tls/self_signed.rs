//! The certificate of a site that was given none: made once, and kept.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Zoned;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};

use super::certificate::Certificate;
use super::fault::TlsFault;
use super::files::{first_certificate, replace};
use super::identity::{Identity, IdentityFiles};

/// Names it has in any case.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// How long it holds.
const YEARS: i16 = 10;

/// It is made anew at a start with less than this left.
const LEFT_MIN: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Finds the certificate for these names in the folder, or makes it. A new
/// certificate has the old one's key, so that who trusts the key goes on
/// trusting it.
///
/// # Errors
/// The folder or its files cannot be used.
pub fn keep(folder: &Path, names: &[String]) -> Result<IdentityFiles, TlsFault> {
    let files = IdentityFiles {
        certificate: folder.join("self-signed.crt"),
        key: folder.join("self-signed.key"),
    };
    let names: BTreeSet<String> = OWN_NAMES
        .iter()
        .map(|name| (*name).to_owned())
        .chain(names.iter().map(|name| name.to_lowercase()))
        .collect();
    if is_fit(&files, &names) {
        return Ok(files);
    }
    make(folder, &files, &names).map_err(|error| {
        let what = format!(
            "cannot keep a self-signed certificate in {}: {error}",
            folder.display()
        );
        let remedy = "Give tls_cert_file and tls_key_file, or a state_dir this user can write to.";
        TlsFault::new("balancer.state_dir", what, remedy)
    })?;
    Ok(files)
}

/// Whether the files hold what would be made.
fn is_fit(files: &IdentityFiles, names: &BTreeSet<String>) -> bool {
    let Ok(identity) = Identity::load(files) else {
        return false;
    };
    let long_enough = identity.expires() > SystemTime::now() + LEFT_MIN;
    let text = fs::read(&files.certificate).unwrap_or_default();
    let der = first_certificate(&text);
    let found = der.as_deref().and_then(Certificate::read).map(|leaf| {
        let hosts = leaf.dns_names().into_iter().map(str::to_owned);
        let addresses = leaf.addresses().into_iter().map(|it| it.to_string());
        hosts.chain(addresses).collect::<BTreeSet<String>>()
    });
    long_enough && found.as_ref() == Some(names)
}

fn make(folder: &Path, files: &IdentityFiles, names: &BTreeSet<String>) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let kept = fs::read_to_string(&files.key).ok();
    let kept = kept.and_then(|text| KeyPair::from_pem(&text).ok());
    let key = match kept {
        Some(key) => key,
        None => {
            let key = KeyPair::generate().map_err(io::Error::other)?;
            replace(&files.key, &key.serialize_pem(), 0o600)?;
            key
        }
    };
    let certificate = parameters(names)
        .and_then(|it| it.self_signed(&key))
        .map_err(io::Error::other)?;
    replace(&files.certificate, &certificate.pem(), 0o644)
}

fn parameters(names: &BTreeSet<String>) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().cloned().collect();
    // What people see first: a name that is no address, the domain's if there
    // is one.
    let is_host = |name: &&String| name.parse::<IpAddr>().is_err() && *name != "localhost";
    let title = names.iter().find(is_host).cloned();
    let mut parameters = CertificateParams::new(names)?;
    let title = title.unwrap_or_else(|| "localhost".to_owned());
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters
        .distinguished_name
        .push(DnType::CommonName, title);
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // A day back, for clocks that are behind; and no 29th of February.
    let today = Zoned::now().date();
    let (month, day) = (today.month().unsigned_abs(), today.day().unsigned_abs());
    let date = |year: i16, day: u8| rcgen::date_time_ymd(i32::from(year), month, day.clamp(1, 28));
    parameters.not_before = date(today.year(), day.saturating_sub(1));
    parameters.not_after = date(today.year() + YEARS, day);
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::Folder;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_with_a_key_for_its_owner_alone() {
        let folder = Folder::new("self-signed-once");
        let files = keep(&folder.0, &[]).expect("a certificate");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder.0), mode(&files.key)), (0o700, 0o600));
        let identity = Identity::load(&files).expect("it fits");
        assert!(identity.expires() > SystemTime::now() + LEFT_MIN);
        assert_eq!(identity.key_hash().len(), 44);
        let before = fs::read(&files.certificate).expect("there");
        keep(&folder.0, &[]).expect("still there");
        assert_eq!(fs::read(&files.certificate).expect("there"), before);
    }

    #[test]
    fn other_names_make_another_certificate_of_the_same_key() {
        let folder = Folder::new("self-signed-names");
        let files = keep(&folder.0, &[]).expect("a certificate");
        let before = Identity::load(&files).expect("it fits").key_hash();
        keep(&folder.0, &["Shop.example".to_owned()]).expect("another");
        assert_eq!(Identity::load(&files).expect("it fits").key_hash(), before);
        let der = first_certificate(&fs::read(&files.certificate).expect("there"));
        let der = der.expect("a certificate");
        let leaf = Certificate::read(&der).expect("a certificate");
        assert_eq!(leaf.common_name(), Some("shop.example"));
        assert_eq!(leaf.dns_names(), ["localhost", "shop.example"]);
        let own: Vec<IpAddr> = ["127.0.0.1", "::1"]
            .map(|it| it.parse().expect("one"))
            .into();
        assert_eq!(leaf.addresses(), own);
    }

    #[test]
    fn what_cannot_be_kept_is_told_with_its_folder() {
        let fault = keep(Path::new("/proc/nowhere"), &[]).expect_err("no such folder");
        assert_eq!(fault.setting, "balancer.state_dir");
        assert!(fault.what.contains("/proc/nowhere"), "{fault}");
    }
}
