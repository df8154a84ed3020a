//! What the tester looks at besides the loads: 19, 20, 22 and 28.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_postgres::Client;

use crate::judge::Clocks;
use crate::load::{Ask, Endpoint, Outcome, Site, call};
use crate::problem::{During, Problem};
use crate::report::Finding;
use crate::stage::{DATABASE, EMAIL, Process, Spec, Stage, TIMEOUT, WATCH, fingerprint};

/// Requests for `/config` by the balancer.
const MANY: usize = 20;

/// How far clocks may be apart, in seconds.
const APART: f64 = 1.0;

/// Check 19.
pub(crate) async fn clocks(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let load = stage.load(&[(Endpoint::DbDummy, 1)], 60).await?;
    let clocks = Clocks::of(&load.samples);
    let pass = clocks.agree(stage.nodes().len(), APART);
    Ok(Finding::whole(
        pass,
        format!("ahead of the tester: {clocks}"),
    ))
}

/// Check 20: each node has the same student.
pub(crate) async fn email(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let mut found = Vec::new();
    for node in stage.nodes() {
        found.push(emails(&node.site(), 1).await?);
    }
    found.push(emails(&stage.site, MANY).await?);
    let found: Vec<_> = found.concat();
    let right = found.iter().filter(|it| *it == EMAIL).count();
    let measured = format!("{EMAIL} in {right} of {} answers", found.len());
    Ok(Finding::whole(right == found.len(), measured))
}

/// What `/config` says, so many times.
async fn emails(site: &Site, times: usize) -> Result<Vec<String>, Problem> {
    let mut found = Vec::new();
    for _ in 0..times {
        let (_, body) = call(site, &Ask::of(Endpoint::Config), TIMEOUT).await;
        let config: serde_json::Value = serde_json::from_slice(&body).during("/config")?;
        let email = config["student_email"].as_str().unwrap_or_default();
        found.push(email.to_owned());
    }
    Ok(found)
}

/// How soon a node has to answer after its process has started, when the call
/// it makes first fails at once, and when nobody answers it.
const START: Duration = Duration::from_secs(5);
const START_CALLING: Duration = Duration::from_secs(40);

/// Check 22.
pub(crate) async fn start(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    // Its queue takes the call, and nobody looks into it.
    let hole = TcpListener::bind(("127.0.0.1", 0)).during("a port")?;
    let port = hole.local_addr().during("a port")?.port();
    let mut calling = spare(stage, "calling")?;
    let url = format!("http://127.0.0.1:{port}/");
    calling.switches.insert("STARTUP_URL", url);
    let quick = spare(stage, "quick")?;
    let quick = serves_within(&quick, START, "call refused").await?;
    let calling = serves_within(&calling, START_CALLING, "call never answered").await?;
    Ok(vec![quick, calling])
}

/// A node that nobody balances.
fn spare(stage: &mut Stage, name: &str) -> Result<Spec, Problem> {
    let port = stage.shop.ports.port(0)?;
    let spec = stage.spec(name, port, DATABASE);
    spec.account.make_folder(&spec.folder)?;
    Ok(spec)
}

async fn serves_within(spec: &Spec, most: Duration, part: &str) -> Result<Finding, Problem> {
    let begun = Instant::now();
    let mut process = spec.start()?;
    let site = Site::at(spec.address);
    let ping = Ask::of(Endpoint::Ping);
    loop {
        let (sample, _) = call(&site, &ping, TIMEOUT).await;
        let took = begun.elapsed();
        let good = sample.outcome == Outcome::Status(200);
        if good || took > most {
            let measured = format!("pong after {:.2} s", took.as_secs_f64());
            return Ok(Finding::part(part, good && took < most, measured));
        }
        process.must_run()?;
        tokio::time::sleep(WATCH).await;
    }
}

/// How long a second set-up may take: there is nothing to do.
const SET_UP: Duration = Duration::from_secs(60);

/// Everything that a set-up makes in the database: rows of the ledger, tables,
/// indexes, and where each is stored.
const MADE: &str = "
    SELECT 'ledger ' || m::text FROM pgweir.migrations m
    UNION ALL
    SELECT 'relation ' || c.oid || ' ' || c.relfilenode || ' ' || n.nspname || '.' || c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'pgweir')
    ORDER BY 1";

/// Check 28: everything was set up by the one command that this is. The same
/// configuration is prepared once more, while the first instance serves.
pub(crate) async fn again(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let session = stage.postgres.session(DATABASE).await?;
    let plan = &stage.pgweir.plan;
    let kept = [
        plan.config(),
        plan.state().join("self-signed.crt"),
        plan.state().join("self-signed.key"),
    ];
    let files = || -> Result<Vec<Vec<u8>>, Problem> {
        let read = |path: &std::path::PathBuf| std::fs::read(path).during(path.display());
        kept.iter().map(read).collect()
    };
    let before = (
        made(&session).await?,
        fingerprint(&session).await?,
        files()?,
    );
    let mut command = stage.shop.account.command(&stage.shop.pgweir, "KILL");
    command
        .arg("prepare")
        .arg(plan.config())
        .current_dir(&plan.folder);
    let log = plan.folder.join("again.log");
    let mut process = Process::start("pgweir prepare", command, Signal::KILL, &log)?;
    let begun = Instant::now();
    let status = loop {
        match process.ended() {
            Some(status) => break status,
            None if begun.elapsed() > SET_UP => {
                return Err(Problem::new("the second pgweir prepare does not end"));
            }
            None => tokio::time::sleep(WATCH).await,
        }
    };
    let took = begun.elapsed();
    let after = (
        made(&session).await?,
        fingerprint(&session).await?,
        files()?,
    );
    let pass = status.success() && before == after && !before.0.is_empty();
    let measured = format!(
        "{status} after {:.1} s; {} rows of the ledger and relations {}, tables {}, {} files {}",
        took.as_secs_f64(),
        before.0.len(),
        as_before(before.0 == after.0),
        as_before(before.1 == after.1),
        kept.len(),
        as_before(before.2 == after.2),
    );
    Ok(Finding::whole(pass, measured))
}

fn as_before(same: bool) -> &'static str {
    if same { "as before" } else { "CHANGED" }
}

async fn made(session: &Client) -> Result<Vec<String>, Problem> {
    let rows = session.query(MADE, &[]).await.during("what was made")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
