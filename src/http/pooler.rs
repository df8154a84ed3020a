//! The pooler in numbers.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::clients::{Clients, clients};
use super::databases::{DatabaseNow, databases};
use super::family::{Described, collect, describe, descs};
use super::more_of_pool::MoreOfPool;
use super::pools::{PoolNow, Pools};
use super::stats::{Stats, stats};
use super::whole::{Version, Whole};
use crate::pool::Bouncer;

/// Serves the pooler's families: those of the PgBouncer exporter by
/// prometheus-community (0.12, and the older names of its counters), and
/// pgweir's own. Register it once.
#[derive(Debug)]
pub struct PoolerCollector {
    bouncer: Arc<Bouncer>,
    descs: Vec<Desc>,
}

impl PoolerCollector {
    /// A collector of this pooler.
    pub fn new(bouncer: Arc<Bouncer>) -> PoolerCollector {
        PoolerCollector {
            bouncer,
            descs: descs(PoolerCollector::families()),
        }
    }

    /// All families.
    pub(super) fn families() -> Vec<Described> {
        [
            describe::<Whole>(),
            describe::<Version>(),
            describe::<Stats>(),
            describe::<PoolNow>(),
            describe::<DatabaseNow>(),
            describe::<Clients>(),
            describe::<MoreOfPool>(),
        ]
        .concat()
    }
}

impl Collector for PoolerCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let clients = clients(&self.bouncer);
        let pools = Pools::read(&self.bouncer, &clients);
        let databases = databases(&self.bouncer);
        let whole = Whole::read(&self.bouncer, &databases, &pools.all);
        let mut families = Vec::new();
        collect(&[whole], &mut families);
        collect(&[Version::read(&self.bouncer)], &mut families);
        collect(&stats(&pools.more), &mut families);
        collect(&pools.all, &mut families);
        collect(&databases, &mut families);
        collect(&clients, &mut families);
        collect(&pools.more, &mut families);
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{bouncer, bouncer_with_autodb, join, scrape};
    use crate::pool::{ClientState, Pool};

    fn page(bouncer: &Arc<Bouncer>) -> String {
        scrape(vec![Box::new(PoolerCollector::new(bouncer.clone()))])
    }

    fn pool(bouncer: &Arc<Bouncer>, database: &str, user: &str) -> Arc<Pool> {
        let database = bouncer.database(database).expect("an entry");
        bouncer.pool(&database, &bouncer.user(user))
    }

    #[track_caller]
    fn assert_lines(page: &str, lines: &[&str]) {
        for line in lines {
            assert!(page.lines().any(|it| it == *line), "no {line} in\n{page}");
        }
    }

    #[test]
    fn everything_described_is_collected_and_nothing_else() {
        let bouncer = bouncer();
        let collector = PoolerCollector::new(bouncer);
        let mut described: Vec<_> = PoolerCollector::families()
            .into_iter()
            .map(|of| of.name)
            .collect();
        let mut collected: Vec<_> = collector
            .collect()
            .iter()
            .map(|family| family.name().to_owned())
            .collect();
        described.sort();
        collected.sort();
        assert_eq!(described, collected);
    }

    #[test]
    fn counters_of_a_databases_pools_are_added_up_under_both_names() {
        let bouncer = bouncer();
        let (ann, bob) = (pool(&bouncer, "shop", "ann"), pool(&bouncer, "shop", "bob"));
        pool(&bouncer, "blog", "ann").counters[0].queries.add(7);
        for counters in [&ann.counters[0], &ann.counters[1], &bob.counters[1]] {
            counters.queries.add(1);
            counters.transactions.add(2);
            counters.received.add(3);
            counters.sent.add(4);
            counters.query_time.add(500_000);
            counters.transaction_time.add(1_000_000);
            counters.wait_time.add(1);
            counters.server_assignments.add(5);
            counters.client_parses.add(6);
            counters.server_parses.add(7);
            counters.binds.add(8);
        }
        let page = page(&bouncer);
        for name in ["pgbouncer_stats", "pgbouncer_stats_totals"] {
            for (family, value) in [
                ("queries_pooled_total", "3"),
                ("queries_total", "3"),
                ("sql_transactions_pooled_total", "6"),
                ("received_bytes_total", "9"),
                ("sent_bytes_total", "12"),
                ("queries_duration_seconds_total", "1.5"),
                ("server_in_transaction_seconds_total", "3"),
                ("client_wait_seconds_total", "0.000003"),
                ("server_assignments_total", "15"),
                ("client_parses_total", "18"),
                ("server_parses_total", "21"),
                ("binds_total", "24"),
            ] {
                let line = format!("{name}_{family}{{database=\"shop\"}} {value}");
                assert_lines(&page, &[&line]);
            }
            let line = format!("{name}_queries_total{{database=\"blog\"}} 7");
            assert_lines(&page, &[&line]);
        }
        assert_lines(
            &page,
            &[
                "pgweir_pool_queries_total{database=\"shop\",user=\"ann\"} 2",
                "pgweir_pool_queries_total{database=\"shop\",user=\"bob\"} 1",
            ],
        );
    }

    #[test]
    fn clients_are_counted_in_the_pool_of_the_user_the_database_forces() {
        let bouncer = bouncer();
        pool(&bouncer, "forced", "ann");
        for state in [ClientState::Idle, ClientState::Active] {
            join(&bouncer, "forced", "ann", "web").set_state(state);
        }
        let page = page(&bouncer);
        assert_lines(
            &page,
            &[
                "pgbouncer_pools_client_active_connections{database=\"forced\",user=\"owner\"} 2",
                "pgbouncer_client_connections{database=\"forced\",user=\"ann\",application_name=\"web\",state=\"idle\"} 1",
                "pgbouncer_client_connections{database=\"forced\",user=\"ann\",application_name=\"web\",state=\"active\"} 1",
            ],
        );
    }

    #[test]
    fn a_waiting_client_is_waiting_and_its_wait_is_measured() {
        let bouncer = bouncer();
        let pool = pool(&bouncer, "shop", "ann");
        bouncer.set_paused(None, true);
        let client = join(&bouncer, "shop", "ann", "web");
        client.set_state(ClientState::Waiting);
        std::thread::sleep(std::time::Duration::from_millis(2));
        let since = crate::stats::Micros::ZERO;
        drop(pool.checkout(&client, 0, since));
        let page = page(&bouncer);
        assert_lines(
            &page,
            &[
                "pgbouncer_pools_client_waiting_connections{database=\"shop\",user=\"ann\"} 1",
                "pgbouncer_pools_client_active_connections{database=\"shop\",user=\"ann\"} 0",
                "pgweir_paused 1",
            ],
        );
        let (_, wait) = page
            .split_once("client_maxwait_seconds{database=\"shop\",user=\"ann\"} ")
            .expect("the wait");
        let wait: f64 = wait
            .lines()
            .next()
            .and_then(|line| line.parse().ok())
            .expect("a number");
        assert!(wait >= 0.002, "{wait}");
    }

    #[test]
    fn a_database_shows_what_is_in_force() {
        let bouncer = bouncer();
        let shop = bouncer.database("shop").expect("an entry");
        assert!(shop.servers.take(0));
        bouncer.set_paused(Some(&shop), true);
        shop.set_disabled(true);
        let labels = "{name=\"shop\",host=\"db1,db2\",port=\"5433\",database=\"shop_live\",force_user=\"\",pool_mode=\"transaction\"}";
        let console = "{name=\"pgbouncer\",host=\"\",port=\"6432\",database=\"pgbouncer\",force_user=\"pgbouncer\",pool_mode=\"statement\"}";
        let page = page(&bouncer);
        for (family, labels, value) in [
            ("pool_size", labels, 7),
            ("reserve_pool", labels, 3),
            ("max_connections", labels, 9),
            ("current_connections", labels, 1),
            ("paused", labels, 1),
            ("disabled", labels, 1),
            ("pool_size", console, 2),
            ("reserve_pool", console, 0),
            ("max_connections", console, 0),
            ("current_connections", console, 0),
        ] {
            let line = format!("pgbouncer_databases_{family}{labels} {value}");
            assert_lines(&page, &[&line]);
        }
    }

    #[test]
    fn there_is_one_of_the_whole() {
        let bouncer = bouncer();
        join(&bouncer, "shop", "ann", "web");
        pool(&bouncer, "shop", "ann");
        for _ in 0..3 {
            bouncer.client_sockets.take(0);
        }
        let notify = Arc::default();
        bouncer.consoles.insert([0; 8], notify);
        bouncer.set_shutting_down();
        assert_lines(
            &page(&bouncer),
            &[
                "pgbouncer_up 1",
                "pgbouncer_version_info{version=\"PgBouncer 1.25.2\"} 1",
                "pgbouncer_databases 4",
                "pgbouncer_pools 2",
                "pgbouncer_users 3",
                "pgbouncer_used_clients 3",
                "pgbouncer_login_clients 1",
                "pgbouncer_pools_client_active_connections{database=\"pgbouncer\",user=\"pgbouncer\"} 1",
                "pgbouncer_pools_client_active_connections{database=\"shop\",user=\"ann\"} 1",
                "pgbouncer_config_max_client_connections 100",
                "pgbouncer_config_max_user_connections 50",
                "pgweir_workers 2",
                "pgweir_paused 0",
                "pgweir_shutting_down 1",
            ],
        );
    }

    #[test]
    fn a_pooler_without_pools_has_the_consoles() {
        let page = page(&bouncer());
        let users = page.matches("pgbouncer_pools_server_idle_connections{");
        assert_eq!(users.count(), 1, "{page}");
        assert!(!page.contains("pgbouncer_stats_"), "{page}");
        assert!(!page.contains("pgweir_pool_"), "{page}");
    }

    #[test]
    fn automatic_databases_are_shown_while_they_are_used() {
        let bouncer = bouncer_with_autodb();
        for name in ["asked_for", "paused", "with_a_pool"] {
            bouncer.database(name).expect("from the * entry");
        }
        let paused = bouncer.database("paused").expect("an entry");
        bouncer.set_paused(Some(&paused), true);
        pool(&bouncer, "with_a_pool", "ann");
        let page = page(&bouncer);
        let shown = |name: &str| page.contains(&format!("pool_size{{name=\"{name}\""));
        assert!(shown("paused") && shown("with_a_pool"), "{page}");
        assert!(!shown("asked_for"), "{page}");
    }
}
