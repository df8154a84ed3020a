//! Seeding row by row, directly and through the pooler: 32.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{Fingerprint, POOLED_DATABASES, Process, Relay, Spec, Stage, fingerprint, here};

/// How much longer it may take through the pooler, in percent.
const SLOWER_MAX: f64 = 15.0;

/// How long one seeding may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Check 32. All ways are taken in turn, each several times; the fastest of
/// each counts, since what is not pgweir's doing only adds time. The way
/// through a relay that only copies bytes tells what any second hop costs on
/// this machine.
pub(crate) async fn slowdown(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let scale = match stage.options.scale.as_str() {
        "full" | "limit" => "ci",
        _ => "tiny",
    };
    let direct_port = stage.postgres.port;
    let pooler_port = stage.pgweir.plan.pooler_port;
    let relay = Relay::open(Ipv4Addr::LOCALHOST, direct_port).await?;
    let (mut direct, mut relayed, mut pooled) = (Vec::new(), Vec::new(), Vec::new());
    for database in POOLED_DATABASES {
        direct.push(seed(stage, "bingo_direct", direct_port, scale).await?);
        relayed.push(seed(stage, "bingo_direct", relay.address.port(), scale).await?);
        pooled.push(seed(stage, database, pooler_port, scale).await?);
    }
    let mut finding = judge(&direct, &relayed, &pooled);
    let times = POOLED_DATABASES.len();
    finding.measured += &format!(" (scale {scale}, best of {times})");
    Ok(vec![finding])
}

/// One seeding.
#[derive(Debug, Clone)]
struct Seeded {
    took: Duration,
    rows: Fingerprint,
}

fn judge(direct: &[Seeded], relayed: &[Seeded], pooled: &[Seeded]) -> Finding {
    let rows = &direct[0].rows;
    let same = direct.iter().chain(pooled).all(|it| it.rows == *rows);
    let verdict = if same { "same rows" } else { "rows differ" };
    let (direct, relayed, pooled) = (fastest(direct), fastest(relayed), fastest(pooled));
    let slower_by = |time: f64| (time / direct - 1.0) * 100.0;
    let slower = slower_by(pooled);
    let each = |seconds: f64| seconds / rows.count() as f64 * 1e6;
    let measured = format!(
        "{verdict}; {pooled:.2} s ({:.0} us a row), direct {direct:.2} s ({:.0} us): {slower:+.1} %; \
         a bare relay: {:+.1} %",
        each(pooled),
        each(direct),
        slower_by(relayed)
    );
    Finding::part("", same && slower <= SLOWER_MAX, measured)
}

fn fastest(all: &[Seeded]) -> f64 {
    let times = all.iter().map(|it| it.took);
    times.min().unwrap_or_default().as_secs_f64()
}

/// Seeds a new database by `prepare_db` over a port, and drops it.
async fn seed(stage: &Stage, database: &str, port: u16, scale: &str) -> Result<Seeded, Problem> {
    stage.postgres.drop_database(database).await?;
    stage.postgres.make_database(database).await?;
    let begun = Instant::now();
    prepare_db(stage, database, port, scale).await?;
    let took = begun.elapsed();
    let session = stage.postgres.session(database).await?;
    let rows = fingerprint(&session).await?;
    drop(session);
    stage.postgres.drop_database(database).await?;
    Ok(Seeded { took, rows })
}

async fn prepare_db(stage: &Stage, database: &str, port: u16, scale: &str) -> Result<(), Problem> {
    let folder = stage.shop.run.join(database);
    let account = stage.shop.account;
    account.make_folder(&folder)?;
    let config = folder.join("config.yaml");
    account.write(&config, &Spec::config(here(port), database))?;
    let mut command = account.command(&stage.shop.bingo, "KILL");
    command
        .arg("prepare_db")
        .current_dir(&folder)
        .env("BINGO_SIM_CONFIG", &config)
        .env("BINGO_SIM_LOG_DIR", &folder)
        .env("BINGO_SIM_LOG_ENV", "0")
        .env("BINGO_SIM_SCALE", scale);
    let log = folder.join("output.log");
    let mut process = Process::start("bingo prepare_db", command, Signal::KILL, &log)?;
    let begun = Instant::now();
    loop {
        match process.ended() {
            Some(status) if status.success() => return Ok(()),
            Some(_) => return process.must_run(),
            None if begun.elapsed() > PATIENCE => {
                return Err(Problem::new(format!(
                    "prepare_db does not end: {}",
                    process.last_words()
                )));
            }
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded(milliseconds: &[u64], rows: i64) -> Vec<Seeded> {
        let one = |took: &u64| Seeded {
            took: Duration::from_millis(*took),
            rows: Fingerprint::sample(rows),
        };
        milliseconds.iter().map(one).collect()
    }

    #[test]
    fn the_fastest_of_each_counts() {
        let direct = seeded(&[1000, 5000], 100);
        let relayed = seeded(&[1100], 100);
        let fine = judge(&direct, &relayed, &seeded(&[9000, 1150], 100));
        assert!(fine.pass, "{}", fine.measured);
        assert!(fine.measured.contains("direct 1.00 s (10000 us): +15.0 %"));
        assert!(fine.measured.ends_with("a bare relay: +10.0 %"));
        assert!(!judge(&direct, &relayed, &seeded(&[1160, 1170], 100)).pass);
    }

    #[test]
    fn rows_that_differ_are_no_success() {
        let direct = seeded(&[1000], 100);
        assert!(!judge(&direct, &direct, &seeded(&[1000], 101)).pass);
    }
}
