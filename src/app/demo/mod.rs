//! `pgweir demo`: the whole program at work on this machine, on a private
//! PostgreSQL and in front of two nodes of an application.
//!
//! The one place that knows the application, bingo, a stand-in built from this
//! repository; the rest of pgweir does not.
//!
//! [`place`] is the folder everything lives in, found by [`ground`], [`account`]
//! whom the children run as. [`service`] is one child process, [`keeper`] starts
//! it again; [`postgres`], [`weir`] and [`nodes`] say what each is started with,
//! [`steps`] in which order. [`load`] is the traffic, [`live`] the line that
//! tells about it from pgweir's own [`metrics`].
//!
//! Everything runs on the main thread: a child gets its death signal when the
//! thread that started it ends, so none outlives this process, however it ends.

mod account;
mod follow;
mod ground;
mod hints;
mod http;
mod keeper;
mod live;
mod load;
mod metrics;
mod mix;
mod nodes;
mod options;
mod place;
mod ports;
mod postgres;
mod programs;
mod running;
mod scale;
mod screen;
mod secrets;
mod service;
mod steps;
mod template;
mod tuning;
mod weir;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

pub use options::Options;
use running::Running;
use screen::Screen;
use steps::Demo;

/// Runs until told to stop.
pub fn run(options: &Options) -> ExitCode {
    let screen = Arc::new(Screen::new());
    let done = match options.clean {
        true => steps::clean(&screen),
        false => stay(options, &screen),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            screen.fail(&message);
            ExitCode::FAILURE
        }
    }
}

fn stay(options: &Options, screen: &Arc<Screen>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let mut stop = Stop::install().map_err(|error| format!("cannot take signals: {error}"))?;
        let demo = Demo::new(options, screen)?;
        let mut running = Running::new(screen);
        let ended = tokio::select! {
            why = stop.asked() => Ok(why),
            failed = demo.live(&mut running) => Err(failed),
        };
        match &ended {
            Ok(why) => screen.line(&format!("{why}: stopping; once more stops at once")),
            Err(_) if running.is_empty() => {}
            Err(_) => screen.line("failed: stopping"),
        }
        tokio::select! {
            () = running.stop() => demo.ended_well(),
            // The children die with this process.
            () = stop.insisted() => screen.line("stopped at once"),
        }
        ended.map(drop)
    })
}

/// Two signals in so short a time are one: a terminal and a parent may both send
/// theirs.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// The signals that end the demo.
struct Stop([tokio::signal::unix::Signal; 3]);

impl Stop {
    fn install() -> std::io::Result<Stop> {
        Ok(Stop([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next one; answers its name.
    async fn asked(&mut self) -> &'static str {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => "Ctrl-C",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    }

    /// Waits for another one than that just received.
    async fn insisted(&mut self) {
        let first = Instant::now();
        while first.elapsed() < ONE_SIGNAL {
            self.asked().await;
        }
    }
}
