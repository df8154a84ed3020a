//! What befalls a node under load: 2, 3, 36, 37 and 38.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::judge::{Ledger, Summary, Trouble, is_unavoidable, lowest_rate};
use crate::load::{Ask, MIXED, Protocol, Sample, call, drive};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{Link, Load, Node, Stage, TIMEOUT, WATCH};

/// Over how long the served rate is taken.
const WINDOW: Duration = Duration::from_secs(5);

/// What has to be served even with one node.
pub(crate) const RATE_OF_ONE: u32 = 60;

/// How long a node stays away: a sixth of the load, within this.
const DOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A sick node may get requests for so long.
pub(crate) const ROTATION: Duration = Duration::from_secs(2);

/// A node that does not answer is found out after so long at most: two checks
/// of a second, and a second before the first.
const SILENCE: Duration = Duration::from_secs(4);

/// Resident bytes at which a node is killed.
pub(crate) const MEMORY_MAX: u64 = 128 << 20;

/// How long a node that was set to die may take.
const DYING: Duration = Duration::from_secs(30);

/// How long a node is up and down when it flaps.
const FLAP: Duration = Duration::from_secs(3);

/// How often it goes down.
const FLAPS: u32 = 3;

/// What befalls a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    /// It ends by itself, told by an operation.
    Panic,
    /// It grows, told by an operation, until it is killed.
    Leak,
    /// It answers 500 to everything, told by an operation, until its watchdog
    /// kills it.
    Sick,
    /// It accepts and never answers, until its watchdog kills it.
    Hang,
    /// It accepts and never answers, and after a while goes on where it was.
    Stop,
    /// What is sent to it is lost for a while.
    Cut,
    /// It dies again and again.
    Flap,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9",
            Fault::Panic => "panic",
            Fault::Leak => "leak",
            Fault::Sick => "sick",
            Fault::Hang => "hang",
            Fault::Stop => "SIGSTOP",
            Fault::Cut => "link down",
            Fault::Flap => "flapping",
        }
    }

    /// Bits 32 to 35 of the operation that sets it off.
    pub(crate) fn operation(self) -> Option<i64> {
        match self {
            Fault::Leak => Some(3 << 32),
            Fault::Panic => Some(4 << 32),
            Fault::Sick => Some(5 << 32),
            _ => None,
        }
    }

    /// How long it lasts besides the time the node stays away.
    fn lasts(self) -> Duration {
        match self {
            Fault::Kill | Fault::Panic => Duration::ZERO,
            Fault::Leak => Duration::from_secs(4),
            Fault::Sick => Duration::from_secs(5),
            Fault::Hang => Duration::from_secs(8),
            Fault::Stop | Fault::Cut => SILENCE,
            Fault::Flap => FLAP * 2 * FLAPS,
        }
    }

    /// Whether another process answers afterwards.
    fn restarts(self) -> bool {
        !matches!(self, Fault::Stop | Fault::Cut)
    }

    /// Lets it befall a node, which stays away for `down`. Returns when the
    /// cause is gone, with the times in which requests were lost.
    pub(crate) async fn befall(
        self,
        node: &Node,
        link: Option<&Link>,
        down: Duration,
        begun: Instant,
    ) -> Result<Vec<Trouble>, Problem> {
        let at = begun.elapsed();
        let deaths = node.deaths().len();
        node.stay_down(down);
        let trouble = |until: Duration, statuses| Trouble {
            window: at..=until,
            statuses,
        };
        let dead = async || Ok::<_, Problem>(death(node, deaths).await?.duration_since(begun));
        let poison = async || {
            let operation = self.operation().unwrap_or_default();
            call(&node.site(), &Ask::operation(operation), TIMEOUT).await
        };
        Ok(vec![match self {
            Fault::Kill => {
                node.signal(Signal::KILL);
                Trouble::death(begun.elapsed())
            }
            Fault::Panic => {
                poison().await;
                trouble(dead().await?, &[502])
            }
            Fault::Leak => {
                node.bound_memory(Some(MEMORY_MAX));
                poison().await;
                let died = dead().await;
                node.bound_memory(None);
                let died = died?;
                Trouble {
                    window: died.saturating_sub(WATCH * 3)..=died,
                    statuses: &[502],
                }
            }
            Fault::Sick => {
                node.watch_pings(true);
                poison().await;
                let died = dead().await;
                node.watch_pings(false);
                died?;
                trouble(at + ROTATION, &[500])
            }
            Fault::Hang => {
                node.watch_pings(true);
                node.signal(Signal::STOP);
                let died = dead().await;
                node.watch_pings(false);
                died?;
                trouble(at + SILENCE, &[502, 504])
            }
            Fault::Stop => {
                node.signal(Signal::STOP);
                sleep(down).await;
                node.signal(Signal::CONT);
                trouble(at + SILENCE, &[502, 504])
            }
            Fault::Cut => {
                let link = link.ok_or_else(|| Problem::new("there is no link to cut"))?;
                link.cut()?;
                sleep(down).await;
                link.join()?;
                trouble(at + SILENCE, &[502, 504])
            }
            Fault::Flap => {
                let mut troubles = Vec::new();
                for _ in 0..FLAPS {
                    node.kill(FLAP);
                    troubles.push(Trouble::death(begun.elapsed()));
                    sleep(FLAP * 2).await;
                }
                return Ok(troubles);
            }
        }])
    }
}

/// Waits until the node has died more often than so many times.
pub(crate) async fn death(node: &Node, deaths: usize) -> Result<Instant, Problem> {
    let dead = async {
        loop {
            if let Some(died) = node.deaths().get(deaths) {
                return *died;
            }
            sleep(WATCH).await;
        }
    };
    let late = || Problem::new(format!("{} does not die", node.name()));
    timeout(DYING, dead).await.map_err(|_| late())
}

/// A fault, and the load it meets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    pub(crate) node: usize,
    pub(crate) rate: u32,
    pub(crate) protocol: Protocol,
}

/// Check 2: each node at each rate; by the other versions of HTTP one node at
/// each.
pub(crate) async fn kill(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let fault = Fault::Kill;
    let mut findings = Vec::new();
    for protocol in Protocol::VERSIONS {
        for (node, rate) in [(0, RATE_OF_ONE), (1, RATE_OF_ONE), (0, 120), (1, 120)] {
            let is_other = (node == 0) == (rate == RATE_OF_ONE);
            if protocol == Protocol::Plain || is_other {
                let strike = Strike {
                    fault,
                    node,
                    rate,
                    protocol,
                };
                findings.push(strike.meet(stage, None).await?);
            }
        }
    }
    Ok(findings)
}

/// Check 3: each node in turn at 60 RPS, by each version of HTTP, and at 120.
pub(crate) async fn break_down(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let mut findings = Vec::new();
    for fault in [Fault::Panic, Fault::Leak, Fault::Sick] {
        findings.extend(by_each_version(stage, fault, None).await?);
        let (node, protocol) = (1, Protocol::Plain);
        let strike = Strike {
            fault,
            node,
            rate: 120,
            protocol,
        };
        findings.push(strike.meet(stage, None).await?);
    }
    Ok(findings)
}

/// Check 36.
pub(crate) async fn stop(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let mut findings = by_each_version(stage, Fault::Stop, None).await?;
    findings.extend(by_each_version(stage, Fault::Hang, None).await?);
    Ok(findings)
}

/// Check 38.
pub(crate) async fn flap(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    by_each_version(stage, Fault::Flap, None).await
}

/// Check 37.
pub(crate) async fn cut(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let link = match Link::make(&stage.shop.run) {
        Ok(link) => link,
        Err(problem) => return Ok(Finding::not_made(problem)),
    };
    let remote = stage.move_away(&link).await?;
    let findings = by_each_version(stage, Fault::Cut, Some(&link)).await;
    stage.move_back(remote).await?;
    findings
}

/// At 60 RPS, the nodes taking turns; with a link, the node behind it.
async fn by_each_version(
    stage: &mut Stage,
    fault: Fault,
    link: Option<&Link>,
) -> Result<Vec<Finding>, Problem> {
    let mut findings = Vec::new();
    for (turn, protocol) in Protocol::VERSIONS.into_iter().enumerate() {
        let last = stage.nodes().len() - 1;
        let node = if link.is_some() { last } else { turn % 2 };
        let rate = RATE_OF_ONE;
        findings.push(
            Strike {
                fault,
                node,
                rate,
                protocol,
            }
            .meet(stage, link)
            .await?,
        );
    }
    Ok(findings)
}

impl Strike {
    /// A third into the load the fault befalls the node.
    async fn meet(self, stage: &mut Stage, link: Option<&Link>) -> Result<Finding, Problem> {
        let Strike {
            fault,
            node,
            rate,
            protocol,
        } = self;
        let at = stage.span.warm_up + stage.span.measured / 3;
        let down = (stage.span.measured / 6).clamp(DOWN.0, DOWN.1);
        let down = down.max(if fault.restarts() { down } else { SILENCE });
        // As long as other loads, if the node can come back in that time.
        let least = at + down + fault.lasts() + stage.span.measured / 3;
        let length = stage.span.total().max(least);
        let count = (length.as_secs_f64() * f64::from(rate)) as usize;
        let asks = stage.scribe.mix(MIXED, count);
        let site = stage.visit(protocol)?;
        let watch = stage.watch().await?;
        let victim = &stage.nodes()[node];
        let (name, old) = (victim.name().to_owned(), victim.id());
        let begun = Instant::now();
        let befalling = async {
            sleep_until(begun + at).await;
            let troubles = fault.befall(victim, link, down, begun).await;
            (begun.elapsed(), troubles)
        };
        let driving = drive(&site, asks.iter().cloned(), rate, TIMEOUT);
        let (samples, (undone, troubles)) = tokio::join!(driving, befalling);
        let troubles = troubles?;
        let load = stage.settle(&watch, samples).await?;
        // What a node does late shows in the ledger, too.
        stage.both_serve().await?;
        let ledger = Ledger::of(&asks, &load.samples, &stage.noted(&watch)?);
        let mut finding = judge(&load, rate, &troubles, &ledger);
        finding.part = format!("{} of {name}, {protocol}, {rate} RPS", fault.name());
        let is_back = |sample: &&Sample| match fault.restarts() {
            true => sample.signature.as_ref().is_some_and(|it| it.pid != old),
            false => sample.at > undone,
        };
        let mut by_it = load.samples.iter().filter(|it| it.is_by(&name));
        finding.measured += &match by_it.find(is_back) {
            Some(back) => {
                let after = (back.at + back.latency).saturating_sub(at);
                format!("; back after {:.1} s", after.as_secs_f64())
            }
            None => "; not back in this load".to_owned(),
        };
        Ok(finding)
    }
}

/// At 60 RPS nothing may fail, at more than one node can do the excess may be
/// shed. Writes that the node had are excused, up to one in a hundred.
pub(crate) fn judge(load: &Load, rate: u32, troubles: &[Trouble], ledger: &Ledger) -> Finding {
    let samples = load.measured();
    let summary = Summary::of(samples);
    let excused = |sample: &Sample| is_unavoidable(sample, troubles);
    let lost = samples.iter().filter(|it| excused(it)).count();
    let shed = if rate > RATE_OF_ONE { summary.shed } else { 0 };
    let lowest = lowest_rate(samples, rate, WINDOW, |it| it.is_served() || excused(it));
    let pass = summary.error_count() == lost + shed
        && lost * 100 <= summary.sent
        && lowest >= f64::from(RATE_OF_ONE)
        && ledger.is_true();
    let mut measured = format!("{summary}; lowest {lowest:.1} RPS; {}", load.origin);
    for (count, kind) in [(shed, "shed"), (lost, "write at the node when it failed")] {
        if count > 0 {
            measured += &format!("; {count} {kind}");
        }
    }
    measured += &format!("; {ledger}");
    Finding::part("", pass, measured)
}
