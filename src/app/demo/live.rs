//! The line that tells how it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::http;
use super::load::{Load, Report};
use super::metrics::{Page, growth, quantile};
use super::screen::Screen;

/// Time between two lines.
const EVERY: Duration = Duration::from_secs(5);
const SCRAPE_LIMIT: Duration = Duration::from_secs(2);

/// What one page of pgweir's metrics says.
#[derive(Debug, Clone, Default, PartialEq)]
struct Figures {
    /// Since pgweir's start, by the balancer.
    requests: f64,
    /// Those shed or failed: 429, 500 and above.
    errors: f64,
    durations: Vec<(f64, f64)>,
    clients: f64,
    waiting: f64,
    servers_in_use: f64,
    pool_size: f64,
    nodes_up: f64,
    nodes: usize,
}

impl Figures {
    fn read(page: &Page) -> Figures {
        let all = |name| page.sum(name, |_| true);
        let waiting = all("pgbouncer_pools_client_waiting_connections");
        Figures {
            requests: all("pgweir_http_requests_total"),
            errors: page.sum("pgweir_http_requests_total", |labels| {
                labels.get("code").is_some_and(is_error)
            }),
            durations: page.buckets("pgweir_http_request_duration_seconds"),
            clients: all("pgbouncer_pools_client_active_connections") + waiting,
            waiting,
            servers_in_use: all("pgbouncer_pools_server_active_connections"),
            pool_size: all("pgweir_pool_size"),
            nodes_up: page.sum("pgweir_http_upstream_state", |labels| {
                labels.get("state") == Some("up")
            }),
            nodes: page.count("pgweir_http_upstream_state", |labels| {
                labels.get("state") == Some("up")
            }),
        }
    }

    /// The line about the time since `before`. Durations and failures are those
    /// of the demo's own traffic, as its clients saw them; without any, those of
    /// all traffic, as the balancer did.
    fn line(&self, before: &Figures, time: Duration, own: &Report) -> String {
        let rate = growth(before.requests, self.requests) / time.as_secs_f64();
        let is_own = own.failed > 0 || !own.durations.is_empty();
        let errors = match is_own {
            true => own.failed as f64,
            false => growth(before.errors, self.errors),
        };
        let quantile = |q| match is_own {
            true => own.quantile(q).map(|it| it.as_secs_f64()),
            false => quantile(&before.durations, &self.durations, q),
        };
        format!(
            "{rate:5.1} req/s  errors {errors:.0}  p50 {}  p90 {} | clients {:.0}  servers {:.0}/{:.0}  waiting {:.0} | nodes {:.0}/{}",
            milliseconds(quantile(0.5)),
            milliseconds(quantile(0.9)),
            self.clients,
            self.servers_in_use,
            self.pool_size,
            self.waiting,
            self.nodes_up,
            self.nodes,
        )
    }
}

fn is_error(code: &str) -> bool {
    code == "429" || code.starts_with('5')
}

fn milliseconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{:.0} ms", seconds * 1e3),
    }
}

/// What the columns are, for people.
pub const LEGEND: &str = "\
requests/s, errors and durations at the balancer | clients of the pooler, servers in use of the pool's
size, clients waiting for one | healthy nodes";

/// Tells for ever.
pub async fn run(screen: &Screen, metrics_port: u16, load: &Arc<Load>) {
    let mut before = scrape(metrics_port).await.ok();
    let mut since = Instant::now();
    loop {
        sleep(EVERY).await;
        let (now, report) = (scrape(metrics_port).await, load.take_report());
        match (&before, &now) {
            (Some(before), Ok(now)) => screen.line(&now.line(before, since.elapsed(), &report)),
            (None, Ok(_)) => {}
            (_, Err(why)) => screen.line(&format!("no metrics from pgweir: {why}")),
        }
        if let Some(failure) = &report.last_failure {
            screen.line(&format!(
                "   {} of the demo's own requests failed, the last: {failure}",
                report.failed
            ));
        }
        before = now.ok().or(before);
        since = Instant::now();
    }
}

async fn scrape(port: u16) -> Result<Figures, String> {
    let page = http::get(port, "/metrics", SCRAPE_LIMIT).await;
    let page = page.map_err(|failure| failure.to_string())?;
    match page.status {
        200 => Ok(Figures::read(&Page::parse(&String::from_utf8_lossy(
            &page.body,
        )))),
        status => Err(format!("status {status}")),
    }
}

/// How many nodes the balancer sends requests to.
///
/// # Errors
/// The metrics cannot be had.
pub async fn healthy_nodes(metrics_port: u16) -> Result<f64, String> {
    scrape(metrics_port).await.map(|figures| figures.nodes_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
pgweir_http_requests_total{route=\"ping\",method=\"GET\",code=\"200\",proto=\"http/1.1\"} 90
pgweir_http_requests_total{route=\"ping\",method=\"GET\",code=\"503\",proto=\"http/1.1\"} 7
pgweir_http_requests_total{route=\"ping\",method=\"GET\",code=\"429\",proto=\"http/1.1\"} 3
pgweir_http_request_duration_seconds_bucket{route=\"ping\",le=\"0.001\"} 50
pgweir_http_request_duration_seconds_bucket{route=\"ping\",le=\"0.1\"} 100
pgweir_http_request_duration_seconds_bucket{route=\"ping\",le=\"+Inf\"} 100
pgbouncer_pools_client_active_connections{database=\"bingo\",user=\"bingo\"} 4
pgbouncer_pools_client_waiting_connections{database=\"bingo\",user=\"bingo\"} 1
pgbouncer_pools_server_active_connections{database=\"bingo\",user=\"bingo\"} 3
pgweir_pool_size{database=\"bingo\",user=\"bingo\"} 20
pgweir_http_upstream_state{state=\"up\",upstream=\"bingo1\"} 1
pgweir_http_upstream_state{state=\"down\",upstream=\"bingo1\"} 0
pgweir_http_upstream_state{state=\"up\",upstream=\"bingo2\"} 0
pgweir_http_upstream_state{state=\"down\",upstream=\"bingo2\"} 1
";

    #[test]
    fn without_own_traffic_the_balancer_is_believed() {
        let now = Figures::read(&Page::parse(PAGE));
        let line = now.line(
            &Figures::default(),
            Duration::from_secs(5),
            &Report::default(),
        );
        assert_eq!(
            line,
            " 20.0 req/s  errors 10  p50 1.0 ms  p90 80 ms | clients 5  servers 3/20  waiting 1 | nodes 1/2"
        );
    }

    #[test]
    fn own_traffic_is_told_as_its_clients_saw_it() {
        let now = Figures::read(&Page::parse(PAGE));
        let own = Report {
            durations: vec![Duration::from_millis(2), Duration::from_millis(101)],
            failed: 1,
            last_failure: None,
        };
        let line = now.line(&Figures::default(), Duration::from_secs(5), &own);
        assert!(line.contains("errors 1  p50 101 ms  p90 101 ms"), "{line}");
    }
}
