//! Asking for the addresses of a name, and for the serial number of a zone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use domain::base::iana::Rtype;
use domain::base::name::Name;
use domain::base::{RelativeName, ToName};
use domain::rdata::Soa;
use domain::resolv::StubResolver;
use domain::resolv::stub::conf::{ResolvConf, ServerConf, Transport};

/// Where the system says how the DNS is asked.
const SYSTEM_RESOLV_CONF: &str = "/etc/resolv.conf";

/// Names that are known without the DNS.
const HOSTS: &str = "/etc/hosts";

/// The most name servers that are asked; glibc's limit.
const MAX_SERVERS: usize = 3;

/// The longest time for one question, and the most tries.
const LONGEST_TRY: Duration = Duration::from_secs(10);
const MOST_TRIES: usize = 3;

/// A host name as a question.
type Wire = Name<Vec<u8>>;

/// Who is asked.
///
/// The system's own resolver for addresses, so that names mean here what they
/// mean to every other program of the machine. With `resolv_conf` the name
/// servers of that file, after the system's table of hosts. The system's
/// resolver knows no serial numbers: for these the DNS is always asked.
#[derive(Debug, Clone)]
pub struct Resolver {
    /// Of `resolv_conf`, if that is set.
    servers: Option<ResolvConf>,
}

impl Resolver {
    /// The system's resolver.
    pub fn of_system() -> Resolver {
        Resolver { servers: None }
    }

    /// The name servers of a file in the format of resolv.conf, where a name
    /// server may have a port: `nameserver 127.0.0.1:5353`.
    ///
    /// # Errors
    /// The file's.
    pub fn of_file(path: &Path) -> io::Result<Resolver> {
        let servers = Some(read(&std::fs::read_to_string(path)?));
        Ok(Resolver { servers })
    }

    /// The addresses of a name, with port 0. Never empty.
    ///
    /// # Errors
    /// There are none, or nobody answers.
    pub async fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let mut found = match &self.servers {
            None => tokio::net::lookup_host((name, 0)).await?.collect(),
            Some(servers) => match in_hosts(name) {
                listed if listed.is_empty() => ask(servers, name).await?,
                listed => listed,
            },
        };
        let mut seen = std::collections::HashSet::new();
        found.retain(|address| seen.insert(*address));
        match found.is_empty() {
            true => Err(no_address()),
            false => Ok(found),
        }
    }

    /// The serial number of a zone.
    ///
    /// # Errors
    /// The zone has none, or nobody answers.
    pub async fn serial(&self, zone: &str) -> io::Result<u32> {
        let servers = match &self.servers {
            Some(servers) => servers.clone(),
            None => read(&std::fs::read_to_string(SYSTEM_RESOLV_CONF)?),
        };
        let none = || io::Error::new(io::ErrorKind::NotFound, "the zone has no serial number");
        for name in candidates(&servers, zone)? {
            let resolver = StubResolver::from_conf(servers.clone());
            let Ok(answer) = resolver.query((name, Rtype::SOA)).await else {
                continue;
            };
            let message = answer.into_message();
            let records = message.answer().map_err(io::Error::other)?;
            let mut found = records.limit_to::<Soa<_>>().flatten();
            if let Some(record) = found.next() {
                return Ok(record.data().serial().into_int());
            }
        }
        Err(none())
    }
}

async fn ask(servers: &ResolvConf, name: &str) -> io::Result<Vec<SocketAddr>> {
    let mut failure = no_address();
    for name in candidates(servers, name)? {
        for _ in 0..servers.options.attempts.clamp(1, MOST_TRIES) {
            // A new one each time: it works in tasks of the calling runtime.
            let resolver = StubResolver::from_conf(servers.clone());
            match resolver.lookup_host(&name).await {
                Ok(found) if !found.is_empty() => return Ok(found.port_iter(0).collect()),
                Ok(_) => break,
                Err(error) => failure = error,
            }
        }
    }
    Err(failure)
}

/// The names a name may mean, in the order in which they are tried.
fn candidates(servers: &ResolvConf, name: &str) -> io::Result<Vec<Wire>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "not a host name");
    let own = Wire::from_str(name).map_err(|_| bad())?;
    if name.ends_with('.') {
        return Ok(vec![own]);
    }
    let relative = RelativeName::<Vec<u8>>::from_str(name).map_err(|_| bad())?;
    let search = servers.options.search.as_slice().iter();
    let mut all: Vec<Wire> = search
        .filter(|suffix| !suffix.is_root())
        .filter_map(|suffix| relative.clone().chain(suffix).ok())
        .map(|name| name.to_name())
        .collect();
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    match dots >= servers.options.ndots {
        true => all.insert(0, own),
        false => all.push(own),
    }
    Ok(all)
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

/// What the table of hosts says of a name.
fn in_hosts(name: &str) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(HOSTS).unwrap_or_default();
    let of_line = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let fits = words.any(|word| word.eq_ignore_ascii_case(name));
        fits.then(|| SocketAddr::new(address, 0))
    };
    text.lines().filter_map(of_line).collect()
}

/// Reads a resolv.conf. What is not understood is passed over, as the C
/// library does.
fn read(text: &str) -> ResolvConf {
    let mut servers = ResolvConf::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(server);
                let server = address.map(|it| ServerConf::new(it, Transport::UdpTcp));
                servers.servers.extend(server);
            }
            // The last one counts.
            Some("search" | "domain") => {
                servers.options.search = Default::default();
                for suffix in words.filter_map(|word| FromStr::from_str(word).ok()) {
                    servers.options.search.push(suffix);
                }
            }
            Some("options") => words.for_each(|word| option(&mut servers, word)),
            _ => {}
        }
    }
    servers.servers.truncate(MAX_SERVERS);
    if servers.servers.is_empty() {
        let own = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
        servers.servers = vec![ServerConf::new(own, Transport::UdpTcp)];
    }
    for server in &mut servers.servers {
        server.request_timeout = servers.options.timeout;
    }
    servers
}

fn server(word: &str) -> Option<SocketAddr> {
    let plain = word.parse::<IpAddr>().ok();
    let plain = plain.map(|address| SocketAddr::new(address, 53));
    plain.or_else(|| word.parse().ok())
}

fn option(servers: &mut ResolvConf, word: &str) {
    let options = &mut servers.options;
    let (key, value) = word.split_once(':').unwrap_or((word, ""));
    match (key, value.parse::<usize>()) {
        ("ndots", Ok(dots)) => options.ndots = dots,
        ("timeout", Ok(seconds @ 1..)) => {
            options.timeout = Duration::from_secs(seconds as u64).min(LONGEST_TRY);
        }
        ("attempts", Ok(tries)) => options.attempts = tries,
        ("use-vc", _) => options.use_vc = true,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, name: &str) -> Vec<String> {
        let all = candidates(&read(text), name).expect("a name");
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_server_may_have_a_port() {
        let found = read("nameserver 10.0.0.1\nnameserver 127.0.0.1:5353 \nnameserver x\n");
        let found: Vec<_> = found.servers.iter().map(|it| it.addr.to_string()).collect();
        assert_eq!(found, ["10.0.0.1:53", "127.0.0.1:5353"]);
    }

    #[test]
    fn without_a_name_server_the_own_machine_is_asked() {
        let found = read("# nothing\nfamily inet4\n");
        assert_eq!(found.servers[0].addr.to_string(), "127.0.0.1:53");
    }

    #[test]
    fn the_names_of_the_search_list_come_first_if_there_are_few_dots() {
        let text = "search a.org b.org\noptions ndots:2 timeout:1\n";
        assert_eq!(names(text, "db"), ["db.a.org", "db.b.org", "db"]);
        assert_eq!(
            names(text, "db.x.y"),
            ["db.x.y", "db.x.y.a.org", "db.x.y.b.org"]
        );
        assert_eq!(names(text, "db."), ["db"]);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        assert!(candidates(&read(""), &"x".repeat(64)).is_err());
        assert!(candidates(&read(""), "a..b").is_err());
    }
}
