//! `make acceptance`: the acceptance checks as one command.
//!
//! It starts a private PostgreSQL, pgweir with pooler and balancer, and two
//! nodes of the application, puts loads on them, and prints a table. [`stage`]
//! is the system, [`load`] what is sent, [`judge`] turns numbers into verdicts
//! and does nothing else, [`checks`] is the table of all checks.
//!
//! A tool for tests, not part of the product.

mod checks;
mod dice;
mod judge;
mod load;
mod options;
mod problem;
mod report;
mod stage;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use checks::{Check, TABLE};
use options::Options;
use problem::{During, Problem};
use report::{Row, table};
use stage::Stage;

/// How a run ended that made no verdict.
const NOT_MADE: u8 = 2;
const INTERRUPTED: u8 = 130;

/// What was made has passed, but not everything could be made here.
const INCOMPLETE: u8 = 3;

fn main() -> ExitCode {
    if let Some(argument) = std::env::args().nth(1) {
        say(&format!(
            "{argument}: there are no arguments, only variables:\n{}",
            Options::help()
        ));
        return ExitCode::from(NOT_MADE);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = runtime
        .during("cannot start")
        .and_then(|runtime| runtime.block_on(run()));
    match ended {
        Ok(code) => code,
        Err(problem) => {
            say(&problem.to_string());
            ExitCode::from(NOT_MADE)
        }
    }
}

/// Everything that was started is ended when this returns.
async fn run() -> Result<ExitCode, Problem> {
    let options = Options::read(|name| std::env::var(name).ok()).map_err(Problem::new)?;
    let checks = chosen(&options)?;
    let mut interrupt = signal(SignalKind::interrupt()).during("SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).during("SIGTERM")?;
    let mut rows = Vec::new();
    let ended = tokio::select! {
        made = make(&options, &checks, &mut rows) => made.map(|()| None),
        _ = interrupt.recv() => Ok(Some(INTERRUPTED)),
        _ = terminate.recv() => Ok(Some(INTERRUPTED)),
    };
    if !rows.is_empty() {
        print(&table(&rows));
    }
    let findings = || rows.iter().map(|row| &row.finding);
    Ok(match ended? {
        Some(code) => ExitCode::from(code),
        None if findings().any(|it| it.made && !it.pass) => ExitCode::FAILURE,
        None if findings().any(|it| !it.made) => ExitCode::from(INCOMPLETE),
        None => ExitCode::SUCCESS,
    })
}

/// The checks that were asked for, in the order in which they are made.
fn chosen(options: &Options) -> Result<Vec<&'static Check>, Problem> {
    let known = |number: &u8| TABLE.iter().any(|check| check.number == *number);
    if let Some(unknown) = options.checks.iter().find(|number| !known(number)) {
        let mut numbers: Vec<_> = TABLE.iter().map(|check| check.number).collect();
        numbers.sort_unstable();
        return Err(Problem::new(format!(
            "CHECKS: there is no check {unknown} here, only {numbers:?}"
        )));
    }
    let wanted =
        |check: &&Check| options.checks.is_empty() || options.checks.contains(&check.number);
    Ok(TABLE.iter().filter(wanted).collect())
}

async fn make(
    options: &Options,
    checks: &[&'static Check],
    rows: &mut Vec<Row>,
) -> Result<(), Problem> {
    let mut stage = Box::pin(Stage::set(options, say)).await?;
    for check in checks {
        let begun = Instant::now();
        // Nothing can be found about what is not there any more.
        stage.pgweir.must_run()?;
        for finding in check.make(&mut stage, say).await {
            let (verdict, part) = (finding.verdict(), &finding.part);
            let (number, title) = (check.number, check.title);
            say(&format!(
                "{number} {title} {part}: {verdict}: {}",
                finding.measured
            ));
            rows.push(Row {
                number,
                title,
                threshold: check.threshold,
                finding,
            });
        }
        say(&format!(
            "check {} took {:.1} s",
            check.number,
            begun.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

/// Tells how the run goes, beside the table.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "acceptance: {text}");
}

/// Writes to stdout; nobody reading it is no reason to fail.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
