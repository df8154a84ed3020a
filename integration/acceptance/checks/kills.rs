//! Many deaths, and a ledger of what was done: 39 and 40.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::faults::{RATE_OF_ONE, death};
use crate::judge::{Ledger, Summary, Trouble, is_unavoidable};
use crate::load::{Ask, WRITING, drive};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{DATABASE, Link, Load, Stage, TIMEOUT, WATCH, added};

/// Requests per second of check 39.
const RATE: u32 = 120;

/// Longest time from a node's comeback to the next death.
const PEACE: Duration = Duration::from_secs(1);

/// How long a node may take to be asked again.
const BACK: Duration = Duration::from_secs(60);

/// Sessions that may be deleted, for each kill.
const DOOMED: usize = 200;

/// Packets lost in a hundred, each way.
const LOSS: u32 = 5;

/// The kernel of a killed node says that it is gone; that, too, may be lost,
/// and is then said again later and later.
const LOST_WORD: Duration = Duration::from_secs(5);

/// How nodes die.
struct Plan {
    rate: u32,
    kills: usize,
    /// The one that dies; none is any.
    victim: Option<usize>,
    /// How long after a death its node may still be thought alive.
    echo: Duration,
    statuses: &'static [u16],
}

/// Check 39.
pub(crate) async fn many(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let plan = Plan {
        rate: RATE,
        kills: stage.options.kills,
        victim: None,
        echo: Duration::ZERO,
        statuses: &[502],
    };
    Ok(vec![plan.carry_out(stage).await?])
}

/// Check 40: the same for the node behind a bad link, a tenth as often.
pub(crate) async fn lossy(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let link = match Link::make(&stage.shop.run) {
        Ok(link) => link,
        Err(problem) => return Ok(Finding::not_made(problem)),
    };
    let home = stage.move_away(&link).await?;
    let plan = Plan {
        rate: RATE_OF_ONE,
        kills: stage.options.kills.div_ceil(10),
        victim: Some(stage.nodes().len() - 1),
        echo: LOST_WORD,
        statuses: &[502, 504],
    };
    let finding = match link.lose(LOSS) {
        Ok(()) => plan.carry_out(stage).await,
        Err(problem) => {
            stage.move_back(home).await?;
            return Ok(Finding::not_made(problem));
        }
    };
    let lost = link.lost();
    stage.move_back(home).await?;
    let (mut finding, lost) = (finding?, lost?);
    finding.pass &= lost > 0;
    finding.measured += &format!("; {lost} packets lost");
    Ok(vec![finding])
}

impl Plan {
    /// Kills as long as there are kills left, and loads meanwhile.
    async fn carry_out(self, stage: &mut Stage) -> Result<Finding, Problem> {
        stage.doom(self.kills * DOOMED).await?;
        let watch = stage.watch().await?;
        let mut scribe = stage.scribe.clone();
        let mut dice = stage.scribe.clone();
        let over = AtomicBool::new(false);
        let sent = Mutex::new(Vec::new());
        let asks = std::iter::from_fn(|| {
            if over.load(Ordering::Relaxed) {
                return None;
            }
            let ask = scribe.one_of(WRITING);
            let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.push(ask.clone());
            Some(ask)
        });
        let begun = Instant::now();
        let killing = async {
            let mut troubles = Vec::new();
            let mut killed = Ok(());
            for _ in 0..self.kills {
                sleep(dice.moment(PEACE)).await;
                let any = dice.pick(stage.nodes().len());
                let node = self.victim.unwrap_or(any);
                killed = kill_once(stage, node).await;
                let Ok(()) = killed else { break };
                let died = stage.nodes()[node].deaths().last().copied();
                let died = died.map_or(Duration::ZERO, |it| it.duration_since(begun));
                troubles.push(Trouble {
                    // It was found dead a little later.
                    window: died.saturating_sub(WATCH * 3)..=died + self.echo,
                    statuses: self.statuses,
                });
            }
            over.store(true, Ordering::Relaxed);
            killed.map(|()| troubles)
        };
        let driving = drive(&stage.site, asks, self.rate, TIMEOUT);
        let (samples, troubles) = tokio::join!(driving, killing);
        let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        stage.scribe = scribe;
        let troubles = troubles?;
        let load = stage.settle(&watch, samples).await?;
        // What a node does late shows in the ledger, too.
        stage.both_serve().await?;
        let ledger = Ledger::of(&sent, &load.samples, &stage.noted(&watch)?);
        let mut finding = judge(&load, &sent, &troubles, &ledger);
        let session = stage.postgres.session(DATABASE).await?;
        let (rows, requests) = added(&session).await?;
        finding.pass &= rows == requests;
        finding.measured += &format!("; {rows} rows by {requests} requests");
        Ok(finding)
    }
}

/// Kills a node and waits until the balancer asks it again.
async fn kill_once(stage: &Stage, node: usize) -> Result<(), Problem> {
    let node = &stage.nodes()[node];
    let (old, deaths) = (node.id(), node.deaths().len());
    node.kill(WATCH);
    death(node, deaths).await?;
    while node.id() == old {
        sleep(WATCH).await;
    }
    node.serves().await?;
    let before = answered(stage, node.name()).await?;
    let begun = Instant::now();
    while answered(stage, node.name()).await? == before {
        if begun.elapsed() > BACK {
            let name = node.name();
            return Err(Problem::new(format!("{name} is not asked again")));
        }
        sleep(WATCH * 5).await;
    }
    Ok(())
}

/// Good answers of a node, by the balancer's count.
async fn answered(stage: &Stage, name: &str) -> Result<u64, Problem> {
    let scrape = stage.scrape().await?;
    Ok(scrape.sum("pgweir_http_upstream_requests_total", |labels| {
        let is = |label: &str, value: &str| labels.get(label).is_some_and(|it| it == value);
        is("upstream", name) && is("code", "200")
    }))
}

/// Nothing may fail but writes at a node that died, and nothing be done twice.
fn judge(load: &Load, sent: &[Ask], troubles: &[Trouble], ledger: &Ledger) -> Finding {
    let samples = &load.samples;
    let summary = Summary::of(samples);
    let lost = samples
        .iter()
        .filter(|it| is_unavoidable(it, troubles))
        .count();
    let pass = summary.error_count() == lost && ledger.is_true() && sent.len() == samples.len();
    let measured = format!(
        "{} kills: {summary}; {lost} writes at the node when it died; {ledger}; {}",
        troubles.len(),
        load.origin
    );
    Finding::part("", pass, measured)
}
