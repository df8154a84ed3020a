//! What the settings say about the shared cache.

use std::io;
use std::time::Duration;

use crate::balancer::invalid;
use crate::config::{self, Password};

/// Nodes that may be named.
const NODES_MAX: usize = 64;

/// Longest prefix of keys, in bytes.
const PREFIX_MAX: usize = 64;

/// What keys begin with where nothing says.
const PREFIX: &str = "pgweir";

/// Shortest and longest wait for an answer.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// The port of a node that is named without one.
const PORT: u16 = 6379;

/// Where the shared cache is, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Hosts, without brackets, and ports.
    pub(super) nodes: Vec<(String, u16)>,
    pub(super) prefix: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Password>,
    /// Longest wait for an answer.
    pub(super) timeout: Duration,
}

impl Plan {
    /// Reads the settings, without the file they may name; none if nothing is
    /// shared.
    ///
    /// # Errors
    /// What makes no sense, as `setting: what; remedy`.
    pub(crate) fn read(settings: &config::Balancer) -> io::Result<Option<Plan>> {
        if settings.shared_cache.is_empty() {
            return Ok(None);
        }
        if !cfg!(feature = "shared-cache") {
            let problem = "built without `shared-cache`; \
                           cargo build --features shared-cache, or leave it out";
            return Err(invalid("balancer.shared_cache", problem));
        }
        if settings.shared_cache.len() > NODES_MAX {
            let problem = format!("more than {NODES_MAX} nodes; some are enough to find all");
            return Err(invalid("balancer.shared_cache", &problem));
        }
        let nodes = settings.shared_cache.iter().map(|it| node(it));
        let nodes: Result<Vec<_>, String> = nodes.collect();
        let nodes = nodes.map_err(|problem| invalid("balancer.shared_cache", &problem))?;
        let prefix = settings.shared_cache_prefix.clone();
        let prefix = prefix.or_else(|| settings.domain.first().cloned());
        let prefix = prefix.unwrap_or_else(|| PREFIX.to_owned());
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_/".contains(&byte);
        if prefix.is_empty() || prefix.len() > PREFIX_MAX || !prefix.bytes().all(is_plain) {
            let problem = format!(
                "\"{prefix}\" is no prefix of keys; \
                 take at most {PREFIX_MAX} letters, digits and .:-_/"
            );
            return Err(invalid("balancer.shared_cache_prefix", &problem));
        }
        let timeout = settings.shared_cache_timeout;
        let (least, most) = TIMEOUT;
        if !(least..=most).contains(&timeout) {
            let problem = "requests would wait too long or for nothing; \
                           give it from 0.001 to 1 second";
            return Err(invalid("balancer.shared_cache_timeout", problem));
        }
        let password = settings.shared_cache_password.clone();
        if password.is_some() && settings.shared_cache_password_file.is_some() {
            let problem = "shared_cache_password is given, too; leave one of them out";
            return Err(invalid("balancer.shared_cache_password_file", problem));
        }
        let user = settings.shared_cache_user.clone();
        let logs_in = password.is_some() || settings.shared_cache_password_file.is_some();
        if user.is_some() && !logs_in {
            let problem = "a user without a password; give shared_cache_password_file, too";
            return Err(invalid("balancer.shared_cache_user", problem));
        }
        Ok(Some(Plan {
            nodes,
            prefix,
            user,
            password,
            timeout,
        }))
    }

    /// The same with the password of the file that the settings name.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub(crate) fn open(settings: &config::Balancer) -> io::Result<Option<Plan>> {
        let plan = Plan::read(settings)?;
        let (Some(mut plan), Some(file)) = (plan.clone(), &settings.shared_cache_password_file)
        else {
            return Ok(plan);
        };
        let setting = "balancer.shared_cache_password_file";
        let name = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| {
            let problem = format!("{setting}: cannot read {name}: {error}");
            io::Error::new(error.kind(), problem)
        })?;
        let password = text.lines().next().unwrap_or_default();
        if password.is_empty() {
            let problem = format!("{name} has no first line; write the password there");
            return Err(invalid(setting, &problem));
        }
        plan.password = Some(Password(password.to_owned()));
        Ok(Some(plan))
    }
}

/// Host and port of `redis://HOST[:PORT]`.
fn node(text: &str) -> Result<(String, u16), String> {
    let example = "name it as redis://10.0.0.1:6379";
    let Some((scheme, place)) = text.split_once("://") else {
        return Err(format!("\"{}\" is no address; {example}", shown(text)));
    };
    if place.contains('@') {
        let remedy = "give shared_cache_user and shared_cache_password_file instead";
        return Err(format!("an address holds no user or password; {remedy}"));
    }
    match scheme {
        "redis" | "valkey" => {}
        "rediss" | "valkeys" => {
            return Err(format!(
                "\"{text}\" asks for TLS, which is not spoken here; \
                 use redis:// in a network that is yours, or through a tunnel"
            ));
        }
        _ => return Err(format!("\"{text}\" is no address of Redis; {example}")),
    }
    let place = place.strip_suffix('/').unwrap_or(place);
    let (host, port) = match place.strip_prefix('[').and_then(|it| it.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or("none"))),
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        None => Some(PORT),
        Some(digits) if digits.bytes().all(|it| it.is_ascii_digit()) => digits.parse().ok(),
        Some(_) => None,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_host = match place.starts_with('[') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => !host.is_empty() && host.bytes().all(is_plain),
    };
    match port {
        Some(port) if is_host && port > 0 => Ok((host.to_owned(), port)),
        _ => Err(format!("\"{text}\" is no host and port; {example}")),
    }
}

/// Nothing of what may hold a password.
fn shown(text: &str) -> &str {
    if text.contains('@') { "***" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_host_and_mostly_a_port() {
        for (text, host, port) in [
            ("redis://10.0.0.1:6380", "10.0.0.1", 6380),
            ("redis://cache-1.test", "cache-1.test", 6379),
            ("redis://cache/", "cache", 6379),
            ("redis://[2001:db8::1]:7000", "2001:db8::1", 7000),
            ("redis://[::1]", "::1", 6379),
        ] {
            assert_eq!(node(text), Ok((host.to_owned(), port)), "{text}");
        }
        for text in [
            "10.0.0.1:6379",
            "http://a",
            "redis://",
            "redis://a:",
            "redis://a:0",
            "redis://a:+1",
            "redis://a:65536",
            "redis://a/1",
            "redis://::1",
            "redis://[a]:1",
            "redis://[::1]1",
            "redis://a b",
        ] {
            let problem = node(text).expect_err(text);
            assert!(problem.ends_with("name it as redis://10.0.0.1:6379"));
        }
        let tls = node("rediss://a").expect_err("not spoken");
        assert!(
            tls.contains("asks for TLS") && tls.contains("; use"),
            "{tls}"
        );
    }

    #[test]
    fn a_password_in_an_address_is_not_repeated() {
        for text in ["redis://:planted@a:1", "x@planted"] {
            let problem = node(text).expect_err("not there");
            assert!(!problem.contains("planted"), "{problem}");
        }
    }

    fn settings() -> config::Balancer {
        config::Balancer {
            shared_cache: vec!["redis://a:1".to_owned()],
            ..config::Balancer::default()
        }
    }

    #[test]
    #[cfg(not(feature = "shared-cache"))]
    fn a_build_without_it_says_so() {
        let problem = Plan::read(&settings()).expect_err("it cannot");
        let expected = "balancer.shared_cache: built without `shared-cache`; \
                        cargo build --features shared-cache, or leave it out";
        assert_eq!(problem.to_string(), expected);
    }

    #[test]
    #[cfg(feature = "shared-cache")]
    fn what_makes_no_sense_is_told_with_its_setting() {
        let problem = |settings: &config::Balancer| {
            let problem = Plan::read(settings).expect_err("it makes no sense");
            let problem = problem.to_string();
            assert!(problem.contains("; "), "a remedy: {problem}");
            problem.split(": ").next().expect("one").to_owned()
        };
        let mut wrong = settings();
        wrong.shared_cache.push("b:1".to_owned());
        assert_eq!(problem(&wrong), "balancer.shared_cache");
        let mut wrong = settings();
        wrong.shared_cache_prefix = Some("{a}".to_owned());
        assert_eq!(problem(&wrong), "balancer.shared_cache_prefix");
        let mut wrong = settings();
        wrong.shared_cache_timeout = Duration::from_secs(2);
        assert_eq!(problem(&wrong), "balancer.shared_cache_timeout");
        let mut wrong = settings();
        wrong.shared_cache_user = Some("a".to_owned());
        assert_eq!(problem(&wrong), "balancer.shared_cache_user");
        wrong.shared_cache_password = Some(Password("p".to_owned()));
        wrong.shared_cache_password_file = Some("f".into());
        assert_eq!(problem(&wrong), "balancer.shared_cache_password_file");
    }

    #[test]
    #[cfg(feature = "shared-cache")]
    fn keys_begin_with_what_is_said_else_the_site_else_the_program() {
        let prefix = |settings: &config::Balancer| {
            let plan = Plan::read(settings).expect("it makes sense");
            plan.expect("a cache").prefix
        };
        let mut settings = settings();
        assert_eq!(prefix(&settings), "pgweir");
        settings.domain = vec!["shop.example".to_owned(), "b".to_owned()];
        assert_eq!(prefix(&settings), "shop.example");
        settings.shared_cache_prefix = Some("one".to_owned());
        assert_eq!(prefix(&settings), "one");
    }
}
