//! Things to try while the demo runs.

use std::fmt::Write as _;
use std::path::Path;

use super::ports::Ports;

/// A request to each of the application's endpoints: a line for curl.
const ENDPOINTS: &[&str] = &[
    "/ping",
    "/db_dummy",
    "/long_dummy",
    "/config",
    "/",
    "-d '{\"operation\":1}' /operation",
    "/api/movie/1",
    "/api/customer/1",
    "/api/session/1",
    "-d '{\"start_time\":\"2024-01-01T12:00:00Z\",\"customer_id\":1,\"movie_id\":1}' /api/session",
    "-X DELETE /api/session/1",
    "/api/movie | head -c 300        # the three lists are long",
    "/api/customer | head -c 300",
    "/api/session | head -c 300",
];

/// The list, for `folder` as seen from where the person is.
pub fn list(folder: &Path, ports: &Ports, nodes: &[(&'static str, u32)]) -> String {
    let folder = folder.display();
    let (http, pooler, metrics) = (ports.http, ports.pooler, ports.metrics);
    let mut text = format!(
        "
Things to try in another terminal:

  The pooler's console, and the database through the pooler
    export PGPASSFILE={folder}/pgpass
    psql -h 127.0.0.1 -p {pooler} -U admin pgbouncer -c 'SHOW POOLS'
    psql -h 127.0.0.1 -p {pooler} -U bingo bingo -c 'SELECT count(*) FROM sessions'

  The application through the balancer
"
    );
    for endpoint in ENDPOINTS {
        let (options, path) = endpoint.split_at(endpoint.find(" /").map_or(0, |place| place + 1));
        writeln!(text, "    curl -s {options}http://127.0.0.1:{http}{path}")
            .expect("a String takes everything");
    }
    let https = ports.https;
    write!(
        text,
        "
  The same over HTTPS, HTTP/2 and HTTP/3; the certificate is self-signed
    curl -k https://localhost:{https}/ping
    gtlsclient -q --exit-on-all-streams-close 127.0.0.1 {https} https://localhost:{https}/ping   # HTTP/3
"
    )
    .expect("a String takes everything");
    let kills = nodes
        .iter()
        .map(|(name, pid)| format!("    kill -9 {pid:<20} # {name}\n"));
    text + &format!(
        "
  Metrics
    curl -s http://127.0.0.1:{metrics}/metrics | grep ^pgweir_http_

  Death of a node: watch the line below, the node is started again
{}    curl -s -d '{{\"operation\":21474836480}}' http://127.0.0.1:{http}/operation   # makes one sick

  What each of them prints: {folder}/log/
",
        kills.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_can_be_typed_as_it_stands() {
        let ports = Ports {
            http: 1,
            https: 7,
            pooler: 2,
            metrics: 3,
            postgres: 4,
            node1: 5,
            node2: 6,
        };
        let text = list(Path::new(".demo"), &ports, &[("bingo1", 77)]);
        for line in [
            "    export PGPASSFILE=.demo/pgpass\n",
            "    curl -s http://127.0.0.1:1/ping\n",
            "    curl -s -X DELETE http://127.0.0.1:1/api/session/1\n",
            "    curl -s http://127.0.0.1:1/api/customer | head -c 300\n",
            "    curl -k https://localhost:7/ping\n",
            "    kill -9 77                   # bingo1\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
