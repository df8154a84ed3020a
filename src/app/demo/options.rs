//! The command line of `pgweir demo`.

use super::ports::Ports;
use super::scale::Scale;

/// What the demo is told. Every option is a variable of `make demo` too.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Options {
    /// How much data; each scale keeps its own database
    #[arg(
        long,
        env = "SCALE",
        value_enum,
        value_name = "SCALE",
        default_value_t = Scale::Full
    )]
    pub scale: Scale,
    /// Requests a second of mixed traffic; 0 for none, 200 is all two nodes let through
    #[arg(long, env = "RPS", value_name = "N", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub rps: u32,
    #[command(flatten)]
    pub ports: Ports,
    /// Remove the demo's folder with all its databases, and end
    #[arg(long)]
    pub clean: bool,
}

/// Below the options in `pgweir demo --help`.
const AFTER: &str = "\
What it does, from the project's folder:
  1. makes a private PostgreSQL in .demo/ on a port of its own; the system's is
     not touched. Started as root, it runs its children as postgres or nobody
  2. runs `pgweir run .demo/pgweir.toml`, which seeds the database, applies
     migrations/ once, and then serves: the pooler for PostgreSQL's clients,
     the balancer for HTTP, and metrics
  3. keeps two nodes of bingo running. bingo is a stand-in, a fixture that
     imitates the application pgweir was written for. Nodes that die, or do not
     answer `pong` to /ping for 3 seconds, are started again
  4. sends light mixed traffic and tells every few seconds how it fares
Ctrl-C or SIGTERM stops all of it. The next start takes the data up as they are.

Examples:
  make demo                        everything, with the full data
  make demo SCALE=ci RPS=120       a hundredth of the data, twice the traffic
  make demo HTTP_PORT=8081         when 8080 is in use
  make demo-clean                  remove .demo/

Its files, below .demo/: pgweir.toml (the configuration that runs), pgpass
(passwords, for PGPASSFILE), log/ (what each child prints), nodes/ (bingo's
configuration and log).";
