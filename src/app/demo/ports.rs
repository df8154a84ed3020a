//! The ports of the demo.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

/// Ports an unprivileged child can have.
const UNPRIVILEGED: std::ops::RangeInclusive<i64> = 1024..=65535;

/// One port each.
#[derive(Debug, Clone, clap::Args)]
pub struct Ports {
    /// Port of the HTTP balancer
    #[arg(long = "http-port", env = "HTTP_PORT", value_name = "PORT", default_value_t = 8080,
          value_parser = clap::value_parser!(u16).range(UNPRIVILEGED))]
    pub http: u16,
    /// Port of the balancer for HTTPS, and HTTP/3 over UDP
    #[arg(long = "https-port", env = "HTTPS_PORT", value_name = "PORT", default_value_t = 8443,
          value_parser = clap::value_parser!(u16).range(UNPRIVILEGED))]
    pub https: u16,
    /// Port of the pooler
    #[arg(long = "pooler-port", env = "POOLER_PORT", value_name = "PORT", default_value_t = 6432,
          value_parser = clap::value_parser!(u16).range(UNPRIVILEGED))]
    pub pooler: u16,
    /// Port of the metrics
    #[arg(long = "metrics-port", env = "METRICS_PORT", value_name = "PORT", default_value_t = 9127,
          value_parser = clap::value_parser!(u16).range(UNPRIVILEGED))]
    pub metrics: u16,
    /// Port of the private PostgreSQL
    #[arg(long = "pg-port", env = "PG_PORT", value_name = "PORT", default_value_t = 15432,
          value_parser = clap::value_parser!(u16).range(UNPRIVILEGED))]
    pub postgres: u16,
    /// Port of bingo for test@example.com
    #[arg(long = "node1-port", env = "NODE1_PORT", value_name = "PORT", default_value_t = 23777,
          value_parser = clap::value_parser!(u16).range(UNPRIVILEGED))]
    pub node1: u16,
    /// Port of bingo for student@example.com
    #[arg(long = "node2-port", env = "NODE2_PORT", value_name = "PORT", default_value_t = 1697,
          value_parser = clap::value_parser!(u16).range(UNPRIVILEGED))]
    pub node2: u16,
}

/// What a port is for, the variable that changes it, and its number.
type Row = (&'static str, &'static str, u16);

impl Ports {
    fn rows(&self) -> [Row; 7] {
        [
            ("HTTP balancer", "HTTP_PORT", self.http),
            ("HTTPS balancer", "HTTPS_PORT", self.https),
            ("pooler", "POOLER_PORT", self.pooler),
            ("metrics", "METRICS_PORT", self.metrics),
            ("PostgreSQL", "PG_PORT", self.postgres),
            ("node bingo1", "NODE1_PORT", self.node1),
            ("node bingo2", "NODE2_PORT", self.node2),
        ]
    }

    /// All that cannot be had, as `busy` sees it, with the remedy; `None` if
    /// all can.
    pub fn trouble(&self, busy: impl Fn(u16) -> bool) -> Option<String> {
        let rows = self.rows();
        let mut remedy = String::from("make demo");
        let mut lines = String::new();
        let mut taken: Vec<u16> = rows.iter().map(|&(_, _, port)| port).collect();
        for (place, &(what, variable, port)) in rows.iter().enumerate() {
            let double = rows[..place].iter().find(|row| row.2 == port);
            let why = match double {
                Some((other, ..)) => format!("is the port of the {other} already"),
                None if busy(port) => "is in use by another program".to_owned(),
                None => continue,
            };
            let free = (port..=u16::MAX).find(|port| !taken.contains(port) && !busy(*port));
            taken.extend(free);
            lines += &format!("  {port:<5} for the {what} ({variable}) {why}\n");
            remedy += &free.map_or_else(String::new, |free| format!(" {variable}={free}"));
        }
        let many = if lines.lines().count() > 1 {
            "Ports"
        } else {
            "A port"
        };
        (!lines.is_empty()).then(|| {
            format!("{many} of the demo cannot be had; nothing was started.\n{lines}Choose others: {remedy}")
        })
    }
}

/// Whether somebody listens on `port` of this machine, over TCP or UDP.
pub fn busy(port: u16) -> bool {
    fn in_use<T>(bound: std::io::Result<T>) -> bool {
        bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
    }
    in_use(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
        || in_use(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
        || in_use(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        http: 8080,
        https: 8443,
        pooler: 6432,
        metrics: 9127,
        postgres: 15432,
        node1: 23777,
        node2: 1697,
    };

    #[test]
    fn free_ports_are_no_trouble() {
        assert_eq!(PORTS.trouble(|_| false), None);
    }

    #[test]
    fn all_busy_ports_are_told_at_once_with_free_ones_instead() {
        let busy = [8080, 8081, 15432];
        let told = PORTS.trouble(|port| busy.contains(&port)).expect("trouble");
        assert_eq!(
            told,
            "Ports of the demo cannot be had; nothing was started.\n  \
             8080  for the HTTP balancer (HTTP_PORT) is in use by another program\n  \
             15432 for the PostgreSQL (PG_PORT) is in use by another program\n\
             Choose others: make demo HTTP_PORT=8082 PG_PORT=15433"
        );
    }

    #[test]
    fn one_port_for_two_is_told() {
        let ports = Ports {
            node2: 8080,
            ..PORTS
        };
        let told = ports.trouble(|_| false).expect("trouble");
        assert!(
            told.contains(
                "8080  for the node bingo2 (NODE2_PORT) is the port of the HTTP balancer already"
            ),
            "{told}"
        );
        assert!(told.ends_with("make demo NODE2_PORT=8081"), "{told}");
    }

    #[test]
    fn a_listener_makes_a_port_busy() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        assert!(busy(port));
        drop(listener);
        assert!(!busy(port));
    }
}
