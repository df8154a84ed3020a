//! The system that is checked: PostgreSQL, pgweir with pooler and balancer,
//! and two nodes of the application.

mod child;
mod data;
mod journal;
mod link;
mod metrics;
mod node;
mod pgweir;
mod ports;
mod postgres;
mod relay;
mod shop;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::judge::Origin;
use crate::load::{Ask, Endpoint, Protocol, Sample, Scribe, Site, call, drive, fold};
use crate::options::{Options, Span};
use crate::problem::{During, Problem};

pub(crate) use child::Process;
pub(crate) use data::{Fingerprint, added, fingerprint, remove_added};
pub(crate) use link::Link;
pub(crate) use metrics::Scrape;
pub(crate) use node::{EMAIL, Node, Spec, WATCH, here};
pub(crate) use pgweir::{DOMAIN, Pgweir, Plan, Seeding};
pub(crate) use postgres::{Postgres, USER, connect, login};
pub(crate) use relay::Relay;
pub(crate) use shop::Shop;

/// The database of the two nodes.
pub(crate) const DATABASE: &str = "bingo";

/// The database whose only pooled server is kept busy by a slow query.
pub(crate) const SLOW_DATABASE: &str = "bingo_slow";

/// Databases to be seeded through the pooler.
pub(crate) const POOLED_DATABASES: [&str; 3] =
    ["bingo_pooled_1", "bingo_pooled_2", "bingo_pooled_3"];

/// How long an answer may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// How long pgweir may take to prepare five million rows.
const PREPARE_PATIENCE: Duration = Duration::from_secs(1800);

/// How long both nodes may take to get traffic.
const ROTATION_PATIENCE: Duration = Duration::from_secs(30);

/// Everything that runs. On drop it is ended in the order of the fields.
#[derive(Debug)]
pub(crate) struct Stage {
    nodes: Vec<Node>,
    pub(crate) pgweir: Pgweir,
    pub(crate) postgres: Postgres,
    pub(crate) shop: Shop,
    /// The balancer.
    pub(crate) site: Arc<Site>,
    metrics: Site,
    pub(crate) scribe: Scribe,
    pub(crate) options: Options,
    /// How long each load runs.
    pub(crate) span: Span,
    /// What all loads so far came to at the nodes.
    pub(crate) origin: Origin,
    /// The tables before anything was asked of them.
    pub(crate) before: Fingerprint,
    /// Sessions that check 15 added and nobody has removed.
    pub(crate) posted: Vec<i64>,
}

/// Where the counters stood when a load began.
#[derive(Debug)]
pub(crate) struct Watch {
    positions: Vec<u64>,
    ledger: u64,
    retries: u64,
}

/// A load that has ended.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) samples: Vec<Sample>,
    pub(crate) origin: Origin,
    warm_up: Duration,
}

impl Load {
    /// Without the warm-up.
    pub(crate) fn measured(&self) -> &[Sample] {
        let first = self.samples.partition_point(|it| it.at < self.warm_up);
        &self.samples[first..]
    }
}

impl Stage {
    /// Starts everything and waits until it serves. `say` is told what is
    /// being waited for.
    pub(crate) async fn set(options: &Options, say: impl Fn(&str)) -> Result<Stage, Problem> {
        let seed = options.seed.unwrap_or_else(clock_seed);
        say(&format!("SEED={seed}, folder {}", options.folder.display()));
        let mut shop = Shop::open(options, seed)?;
        say("starting PostgreSQL");
        let port = shop.ports.port(0)?;
        let postgres = Postgres::start(&shop.account, &shop.data, port).await?;
        data::make_databases(&postgres).await?;
        say("starting pgweir; the first start at this scale seeds and indexes");
        let balancing = shop.balancing(options)?;
        let plan = shop.plan(options, postgres.port, &balancing)?;
        let metrics = Site::new(plan.metrics_port);
        let mut pgweir = Pgweir::start(&shop.account, &shop.pgweir, plan)?;
        pgweir.serves(PREPARE_PATIENCE).await?;
        let session = postgres.session(DATABASE).await?;
        remove_added(&session).await?;
        let before = fingerprint(&session).await?;
        shop.recognise(&before)?;
        say(&format!("tables: {before}"));
        let mut stage = Stage {
            nodes: Vec::new(),
            pgweir,
            postgres,
            site: Arc::new(Site::new(balancing.port)),
            metrics,
            scribe: Scribe::new(data::facts(&session).await?, seed),
            options: options.clone(),
            span: options.span(),
            origin: Origin::default(),
            before,
            posted: Vec::new(),
            shop,
        };
        say("starting two nodes");
        stage.shop.account.write(&stage.ledger(), "")?;
        for (name, address) in balancing.nodes {
            let spec = stage.spec(&name, address.port(), DATABASE);
            stage.nodes.push(Node::start(spec).await?);
        }
        stage.both_serve().await?;
        Ok(stage)
    }

    /// What a node is started with.
    pub(crate) fn spec(&self, name: &str, port: u16, database: &str) -> Spec {
        Spec {
            name: name.to_owned(),
            account: self.shop.account,
            program: self.shop.bingo.clone(),
            folder: self.shop.run.join(name),
            address: here(port),
            namespace: None,
            pooler: here(self.pgweir.plan.pooler_port),
            database: database.to_owned(),
            ledger: self.ledger(),
            switches: BTreeMap::new(),
        }
    }

    /// Where nodes note what they are about to do.
    fn ledger(&self) -> PathBuf {
        self.shop.run.join("ledger")
    }

    /// What was noted there since then.
    pub(crate) fn noted(&self, watch: &Watch) -> Result<String, Problem> {
        let path = self.ledger();
        let text = std::fs::read(&path).during(path.display())?;
        let from = usize::try_from(watch.ledger).unwrap_or(usize::MAX);
        let text = text.get(from..).unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Adds so many sessions that loads may delete.
    pub(crate) async fn doom(&mut self, count: usize) -> Result<(), Problem> {
        let session = self.postgres.session(DATABASE).await?;
        self.scribe.doomed = data::add_some(&session, count).await?;
        Ok(())
    }

    /// The two nodes behind the balancer.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts both nodes anew with these variables.
    pub(crate) async fn restart_nodes(
        &mut self,
        switches: BTreeMap<&'static str, String>,
    ) -> Result<(), Problem> {
        let specs: Vec<_> = self.nodes.iter().map(|node| node.spec().clone()).collect();
        self.nodes.clear();
        for spec in specs {
            let switches = switches.clone();
            self.nodes
                .push(Node::start(Spec { switches, ..spec }).await?);
        }
        self.both_serve().await
    }

    /// Starts one node anew.
    pub(crate) async fn restart_node(&mut self, node: usize, spec: Spec) -> Result<(), Problem> {
        let names = self
            .nodes
            .iter()
            .map(|it| (it.name().to_owned(), it.address()));
        let mut places: Vec<_> = names.collect();
        places[node].1 = spec.address;
        drop(self.nodes.remove(node));
        self.nodes.insert(node, Node::start(spec).await?);
        self.pgweir.move_nodes(&self.shop.account, places)?;
        self.both_serve().await
    }

    /// Puts the last node into the network behind a link; what it has to be
    /// started with to be as before, and what has to live until then.
    pub(crate) async fn move_away(&mut self, link: &Link) -> Result<(Spec, Relay), Problem> {
        let last = self.nodes.len() - 1;
        let home = self.nodes[last].spec().clone();
        // The pooler listens here only.
        let relay = Relay::open(link.near, home.pooler.port()).await?;
        let away = Spec {
            address: (link.far, home.address.port()).into(),
            namespace: Some(link.namespace()),
            pooler: relay.address,
            ..home.clone()
        };
        self.restart_node(last, away).await?;
        Ok((home, relay))
    }

    /// Puts it back.
    pub(crate) async fn move_back(&mut self, home: (Spec, Relay)) -> Result<(), Problem> {
        let last = self.nodes.len() - 1;
        self.restart_node(last, home.0).await
    }

    /// The balancer by a protocol, with nobody there yet.
    pub(crate) fn visit(&self, protocol: Protocol) -> Result<Arc<Site>, Problem> {
        let plan = &self.pgweir.plan;
        let balancing = plan.balancer.as_ref();
        let balancing = balancing.ok_or_else(|| Problem::new("there is no balancer"))?;
        Ok(Arc::new(match protocol {
            Protocol::Plain => Site::new(balancing.port),
            _ => Site::secure(balancing.https_port, protocol, &plan.trust()?),
        }))
    }

    /// What the metrics port says now.
    pub(crate) async fn scrape(&self) -> Result<Scrape, Problem> {
        Scrape::take(&self.metrics).await
    }

    /// Waits until the balancer sends requests to both nodes.
    pub(crate) async fn both_serve(&mut self) -> Result<(), Problem> {
        const IN_A_ROW: usize = 20;
        let begun = Instant::now();
        loop {
            let mut good = Vec::new();
            for _ in 0..IN_A_ROW {
                let (sample, _) = call(&self.site, &Ask::operation(0), TIMEOUT).await;
                if sample.is_served() {
                    good.push(sample);
                }
            }
            let nodes = self.nodes.len();
            if good.len() == IN_A_ROW && crate::judge::shares(&good).are_between(nodes, 1, 99) {
                return Ok(());
            }
            self.pgweir.must_run()?;
            if begun.elapsed() > ROTATION_PATIENCE {
                return Err(Problem::new(format!(
                    "the balancer does not serve from {nodes} nodes: {}, answers by {}",
                    crate::judge::Summary::of(&good),
                    crate::judge::shares(&good)
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many requests a load of this length has.
    pub(crate) fn count(&self, rate: u32) -> usize {
        (self.span.total().as_secs_f64() * f64::from(rate)) as usize
    }

    /// Puts these shares on the balancer at a rate.
    pub(crate) async fn load(
        &mut self,
        shares: &[(Endpoint, i64)],
        rate: u32,
    ) -> Result<Load, Problem> {
        let asks = self.scribe.mix(shares, self.count(rate));
        let watch = self.watch().await?;
        let samples = drive(&self.site, asks, rate, TIMEOUT).await;
        self.settle(&watch, samples).await
    }

    /// Notes where the counters stand.
    pub(crate) async fn watch(&self) -> Result<Watch, Problem> {
        Ok(Watch {
            positions: self
                .nodes
                .iter()
                .map(|it| it.journal().position())
                .collect(),
            ledger: std::fs::metadata(self.ledger()).map_or(0, |it| it.len()),
            retries: self.scrape().await?.retries(),
        })
    }

    /// How often the nodes have answered on a path since then, ids folded.
    pub(crate) fn counted(&self, watch: &Watch) -> Result<BTreeMap<String, usize>, Problem> {
        let mut counted = BTreeMap::new();
        for (node, position) in self.nodes.iter().zip(&watch.positions) {
            for request in node.journal().since(*position)? {
                *counted.entry(fold(&request.path).to_owned()).or_default() += 1;
            }
        }
        Ok(counted)
    }

    /// Compares what was sent since then with what the nodes counted.
    pub(crate) async fn settle(
        &mut self,
        watch: &Watch,
        samples: Vec<Sample>,
    ) -> Result<Load, Problem> {
        self.pgweir.must_run()?;
        let counted = self.counted(watch)?;
        let retries = self.scrape().await?.retries() - watch.retries;
        let origin = Origin::of(&samples, &counted, retries);
        self.origin.add(&origin);
        Ok(Load {
            samples,
            origin,
            warm_up: self.span.warm_up,
        })
    }
}

/// Another seed each time.
fn clock_seed() -> u64 {
    jiff::Timestamp::now().as_microsecond().unsigned_abs()
}
