//! bingo, a stand-in for the course application of the same name: a fixture for
//! pgweir's demo and tests, never part of the product. `README.md` beside this
//! file says what it imitates and what a test may change.
//!
//! `cli` says what is asked, `server` and `seed` are the two commands that do
//! something, `http` → `routes` → `endpoints` is a request's way to `db`.

mod app;
mod cli;
mod clock;
mod config;
mod db;
mod duration;
mod endpoints;
mod failure;
mod faults;
mod generator;
mod http;
mod identity;
mod json;
mod ledger;
mod limiter;
mod log;
mod migrate;
mod routes;
mod seed;
mod server;
mod startup;
mod statements;
mod switches;
mod texts;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cli::{Action, Invocation};
use config::Config;
use db::Need;
use failure::Failure;
use generator::Generator;
use log::Log;
use switches::Switches;

/// Where the log directories are.
const LOGS: &str = "/opt/bongo/logs";

/// How long tasks have to end when the process does.
const LAST_MOMENT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let born = Instant::now();
    eprintln!("{}", texts::BANNER);
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into())
        .collect();
    match run(&arguments, born) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: &[String], born: Instant) -> Result<(), Failure> {
    let switches = Switches::read(environment()).map_err(Failure::Error)?;
    if rustix::process::geteuid().is_root() && !switches.allow_root {
        return Err(Failure::Root);
    }
    match cli::parse(arguments) {
        Invocation::Run(action) => act(action, &switches, born),
        Invocation::Show(text) => print(&text),
        Invocation::Wrong(text) => Err(Failure::Usage(text)),
    }
}

fn act(action: Action, switches: &Switches, born: Instant) -> Result<(), Failure> {
    match action {
        Action::Hello => print(&format!("{}\n", texts::HELLO)),
        Action::Version => print(&format!("{}\n", texts::VERSION)),
        Action::PrintDefaultConfig => print(&Config::default().to_yaml()),
        Action::PrintCurrentConfig => print(&read_config(switches)?.to_yaml()),
        Action::PrepareDb => {
            let (config, log) = equip(switches, true)?;
            in_runtime(prepare_db(switches, &config, log))
        }
        Action::RunServer => {
            let (config, log) = equip(switches, false)?;
            in_runtime(server::run(switches, &config, log, born))
        }
    }
}

async fn prepare_db(switches: &Switches, config: &Config, log: Arc<Log>) -> Result<(), Failure> {
    let failed = |error: String| Failure::Error(format!("failed prepare DB: {error}"));
    let cluster = server::connect(switches, config, log.clone()).await?;
    let mut lease = cluster
        .lease(Need::Write)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let generator = Generator {
        seed: switches.seed,
        sizes: switches.sizes,
    };
    seed::prepare(
        &mut lease,
        generator,
        switches.load,
        switches.migrate_lock,
        &log,
    )
    .await
    .map_err(failed)
}

/// What both commands need that do something: the configuration and the log.
fn equip(switches: &Switches, terminal: bool) -> Result<(Config, Arc<Log>), Failure> {
    let config = read_config(switches)?;
    let directory = switches.log_dir.clone().unwrap_or_else(|| {
        PathBuf::from(LOGS).join(identity::log_directory(&config.student_email))
    });
    let log = open_log(&directory, switches, terminal).map_err(|error| {
        Failure::Panic(
            "failed to build logger",
            format!("{}: {error}", directory.display()),
        )
    })?;
    if config.has_default_user() {
        print(texts::DEFAULT_USER_WARNING)?;
    }
    Ok((config, Arc::new(log)))
}

fn read_config(switches: &Switches) -> Result<Config, Failure> {
    Config::read(&switches.config)
        .map_err(|error| Failure::Panic("failed to read config data", error))
}

fn open_log(directory: &Path, switches: &Switches, terminal: bool) -> std::io::Result<Log> {
    let variables = || {
        environment()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    };
    Log::open(
        directory,
        switches.clock,
        terminal,
        switches.log_env.then(variables),
    )
}

/// The environment, whatever its bytes.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into(),
            value.to_string_lossy().into(),
        )
    })
}

fn in_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Error(format!("runtime: {error}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_MOMENT);
    result
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::Error(format!("stdout: {error}")))
}
