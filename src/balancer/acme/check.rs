//! Which settings there can be a certificate for.

use std::io;
use std::net::IpAddr;

use hyper::Uri;

use super::HTTP;
use crate::balancer::invalid;
use crate::config;

/// Most names of one certificate: what Let's Encrypt takes.
const NAMES_MAX: usize = 100;

/// Finds contradictions.
///
/// # Errors
/// `setting: what; remedy` of the first.
pub(crate) fn check(settings: &config::Balancer) -> io::Result<()> {
    if !settings.acme {
        return Ok(());
    }
    let wrong =
        |setting: &str, problem: &str| Err(invalid(&format!("balancer.{setting}"), problem));
    if settings.tls_cert_file.is_some() {
        let problem = "there is a certificate already, in tls_cert_file; leave out one of them";
        return wrong("acme", problem);
    }
    if settings.https_listen.is_empty() {
        let problem = "nothing is served that needs a certificate; set https_listen";
        return wrong("acme", problem);
    }
    if settings.domain.is_empty() {
        let problem = "no name is known that a certificate could be for; set domain";
        return wrong("acme", problem);
    }
    if settings.domain.len() > NAMES_MAX {
        let problem = format!("a certificate has {NAMES_MAX} names at most; give fewer");
        return wrong("domain", &problem);
    }
    for name in &settings.domain {
        if let Some(why) = unfit(name) {
            return wrong("domain", &format!("`{name}` {why}"));
        }
    }
    if settings.acme_challenge == HTTP && settings.listen.is_empty() {
        let problem = "http-01 is answered where plain HTTP is served, which is nowhere; \
                       set listen, or tls-alpn-01";
        return wrong("acme_challenge", problem);
    }
    let url = settings.acme_directory.parse::<Uri>().ok();
    let url = url.filter(|it| it.scheme_str() == Some("https") && it.host().is_some());
    if url.is_none() {
        let problem = "not the https URL of a directory; ask the authority for it";
        return wrong("acme_directory", problem);
    }
    if let Some(address) = settings.acme_contact.iter().find(|it| !is_mail(it)) {
        let problem = format!("`{address}` is no mail address; give one such as ops@shop.example");
        return wrong("acme_contact", &problem);
    }
    Ok(())
}

/// Why no authority can be asked for this name.
fn unfit(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    if name.parse::<IpAddr>().is_ok() {
        return Some("is an address, and certificates are ordered for names; leave it out");
    }
    if lower == "localhost" || lower.ends_with(".localhost") {
        return Some("is this machine for everybody; leave it out");
    }
    if name.starts_with("*.") {
        return Some(
            "stands for many names, of which each has to be proven; \
             name them, or give tls_cert_file instead of acme",
        );
    }
    let plain = |it: u8| it.is_ascii_alphanumeric() || it == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match name.len() <= 253 && name.split('.').all(is_label) {
        true => None,
        false => Some("is no host name; give it as it is in DNS (xn-- where it is not ASCII)"),
    }
}

/// Whether it looks like a mail address.
fn is_mail(address: &str) -> bool {
    let parts = address.split_once('@');
    parts.is_some_and(|(user, host)| {
        let plain = |it: char| it.is_ascii_graphic() && !",?:<>\"".contains(it);
        !user.is_empty() && user.chars().all(plain) && unfit(host).is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> config::Balancer {
        config::Balancer {
            acme: true,
            listen: vec!["127.0.0.1:80".parse().expect("an address")],
            https_listen: vec!["127.0.0.1:443".parse().expect("an address")],
            domain: vec!["Shop.example".to_owned(), "app".to_owned()],
            acme_contact: vec!["ops@shop.example".to_owned()],
            ..config::Balancer::default()
        }
    }

    fn told(change: impl FnOnce(&mut config::Balancer)) -> String {
        let mut settings = good();
        change(&mut settings);
        check(&settings).expect_err("a contradiction").to_string()
    }

    #[test]
    fn each_contradiction_is_told_with_its_setting_and_a_remedy() {
        check(&good()).expect("good settings");
        let domain = |names: &'static [&str]| {
            told(|it| it.domain = names.iter().map(|it| (*it).to_owned()).collect())
        };
        for (told, setting) in [
            (told(|it| it.tls_cert_file = Some("a.crt".into())), "acme"),
            (told(|it| it.https_listen.clear()), "acme"),
            (domain(&[]), "acme"),
            (domain(&["localhost"]), "domain"),
            (domain(&["a.localhost"]), "domain"),
            (domain(&["shop.example", "192.0.2.1"]), "domain"),
            (domain(&["::1"]), "domain"),
            (domain(&["*.shop.example"]), "domain"),
            (domain(&["shop..example"]), "domain"),
            (domain(&["shop.example."]), "domain"),
            (domain(&["käse.example"]), "domain"),
            (domain(&["a"; NAMES_MAX + 1]), "domain"),
            (
                told(|it| it.acme_directory = "http://a.example/".into()),
                "acme_directory",
            ),
            (
                told(|it| it.acme_directory = "directory".into()),
                "acme_directory",
            ),
            (
                told(|it| it.acme_contact = vec!["ops".into()]),
                "acme_contact",
            ),
            (
                told(|it| {
                    it.acme_challenge = HTTP.into();
                    it.listen.clear();
                }),
                "acme_challenge",
            ),
        ] {
            let named = format!("balancer.{setting}: ");
            assert!(
                told.starts_with(&named) && told.contains("; "),
                "{setting}: {told}"
            );
        }
    }

    #[test]
    fn settings_of_acme_do_not_matter_while_it_is_off() {
        let settings = config::Balancer {
            acme_directory: "nowhere".to_owned(),
            ..config::Balancer::default()
        };
        check(&settings).expect("nobody asks");
    }
}
