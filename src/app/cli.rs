//! The command lines: pgweir's own, and PgBouncer's.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use super::life::{self, Start};
use super::{demo, hba, http};
use crate::config::Config;

/// pgweir: a PostgreSQL connection pooler and query gateway, drop-in for
/// PgBouncer, with a thin HTTP balancer.
///
/// Called as `pgbouncer`, or with a configuration file in place of a command,
/// it takes exactly PgBouncer's command line and runs the pooler alone.
#[derive(Debug, Parser)]
#[command(name = "pgweir", version, disable_help_subcommand = true)]
struct Pgweir {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything the file configures: prepare, pooler, balancer, metrics
    Run {
        /// `pgweir.toml` or a `pgbouncer.ini`
        config: PathBuf,
        /// Take over from the process that runs, with its connections
        #[arg(short = 'R', long)]
        reboot: bool,
        /// More log lines; may be repeated
        #[arg(short, long, action = clap::ArgAction::Count)]
        verbose: u8,
    },
    /// Seed and migrate only, then exit
    Prepare {
        /// `pgweir.toml` or a `pgbouncer.ini` with a `[prepare]` section
        config: PathBuf,
        /// Say what would be done and change nothing
        #[arg(long)]
        plan: bool,
    },
    /// Say what is wrong with a configuration, or what it configures
    Check {
        /// `pgweir.toml` or a `pgbouncer.ini`
        config: PathBuf,
    },
    /// Print the TOML that says the same as a `pgbouncer.ini`
    Convert {
        /// The `pgbouncer.ini`
        config: PathBuf,
    },
    /// Try all of it on this machine, with a private PostgreSQL and two nodes
    Demo(demo::Options),
}

/// A connection pooler for PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "pgbouncer", disable_version_flag = true)]
struct Pgbouncer {
    /// Run in background (as a daemon)
    #[arg(short, long)]
    daemon: bool,
    /// Do an online reboot
    #[arg(short = 'R', long)]
    reboot: bool,
    /// Assume identity of NAME
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// Increase verbosity
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Run quietly
    #[arg(short, long)]
    quiet: bool,
    /// Show version, then exit
    #[arg(short = 'V', long)]
    version: bool,
    /// Configuration file
    #[arg(value_name = "CONFIG_FILE")]
    config: Vec<PathBuf>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match is_pgbouncer(&arguments) {
        true => pgbouncer(&arguments),
        false => pgweir(&arguments),
    }
}

/// Called as `pgbouncer`, or with something else than a command of pgweir.
fn is_pgbouncer(arguments: &[OsString]) -> bool {
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    if program.is_some_and(|name| name == "pgbouncer") {
        return true;
    }
    let Some(first) = arguments.get(1).and_then(|first| first.to_str()) else {
        return false;
    };
    let own = Pgweir::command();
    let is_command = own
        .get_subcommands()
        .any(|command| command.get_name() == first);
    !is_command && !["-h", "--help", "-V", "--version"].contains(&first)
}

fn pgweir(arguments: &[OsString]) -> ExitCode {
    let parsed = match Pgweir::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error),
    };
    match parsed.command {
        Command::Run {
            config,
            reboot,
            verbose,
        } => life::run(Start {
            config,
            verbose,
            reboot,
            whole: true,
            ..Start::default()
        }),
        Command::Prepare { config, plan } => prepare(&config, plan),
        Command::Check { config } => outcome(check(&config)),
        Command::Convert { config } => outcome(crate::config::convert(&config)),
        Command::Demo(options) => demo::run(&options),
    }
}

/// What a start would complain of, and a report if there is nothing.
fn check(path: &Path) -> Result<String, String> {
    let report = crate::config::check(path).map_err(|error| error.to_string())?;
    let loaded = Config::load(path).map_err(|error| error.to_string())?;
    hba::check(&loaded).map_err(|fault| fault.to_string())?;
    http::check(&loaded).map_err(|fault| fault.to_string())?;
    Ok(report)
}

fn prepare(path: &Path, plan: bool) -> ExitCode {
    let config = match Config::load(path) {
        Ok(loaded) => loaded.config,
        Err(error) => return outcome::<crate::config::Error>(Err(error)),
    };
    let Some(settings) = config.prepare else {
        eprintln!(
            "{}: there is no [prepare] section; docs/configuration.md has its settings",
            path.display()
        );
        return ExitCode::FAILURE;
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return outcome::<std::io::Error>(Err(error)),
    };
    let tell = |event: &crate::prepare::Event| eprintln!("{event}");
    runtime.block_on(async {
        match plan {
            true => outcome(
                crate::prepare::plan(&settings, &tell)
                    .await
                    .map(|plan| plan.to_string()),
            ),
            false => outcome(
                crate::prepare::run(&settings, &tell)
                    .await
                    .map(|report| format!("{report}\n")),
            ),
        }
    })
}

/// Prints a result on standard output, or what went wrong on standard error.
fn outcome<E: std::fmt::Display>(result: Result<String, E>) -> ExitCode {
    match result {
        Ok(text) => print(&text),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn pgbouncer(arguments: &[OsString]) -> ExitCode {
    let parsed = match Pgbouncer::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            let code = explain(&error);
            if code != ExitCode::SUCCESS {
                hint(arguments);
            }
            return code;
        }
    };
    if parsed.version {
        return print(&format!(
            "{}\npgweir {}\n",
            crate::admin::VERSION,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let Ok([config]) = <[PathBuf; 1]>::try_from(parsed.config) else {
        let program = program(arguments);
        eprintln!("{program}: no configuration file specified");
        hint(arguments);
        return ExitCode::FAILURE;
    };
    life::run(Start {
        config,
        verbose: parsed.verbose,
        quiet: parsed.quiet,
        daemon: parsed.daemon,
        user: parsed.user,
        reboot: parsed.reboot,
        whole: false,
    })
}

/// What clap says: help is a success on standard output, an error is 1.
fn explain(error: &clap::Error) -> ExitCode {
    let shown = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion if shown.is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn program(arguments: &[OsString]) -> String {
    arguments
        .first()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn hint(arguments: &[OsString]) {
    eprintln!(
        "Try \"{} --help\" for more information.",
        program(arguments)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn a_file_in_place_of_a_command_is_pgbouncers_command_line() {
        assert!(is_pgbouncer(&arguments("pgweir /etc/pgbouncer.ini")));
        assert!(is_pgbouncer(&arguments("pgweir -d some.ini")));
        assert!(is_pgbouncer(&arguments("/usr/sbin/pgbouncer run")));
        assert!(!is_pgbouncer(&arguments("pgweir run pgweir.toml")));
        assert!(!is_pgbouncer(&arguments("pgweir --help")));
        assert!(!is_pgbouncer(&arguments("pgweir")));
    }

    #[test]
    fn both_command_lines_are_consistent() {
        Pgweir::command().debug_assert();
        Pgbouncer::command().debug_assert();
    }
}
