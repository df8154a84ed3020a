//! Starting a child again whenever it dies.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::screen::Screen;
use super::service::{Process, Service};

/// A child that lived for so long is started again at once.
const SETTLED: Duration = Duration::from_secs(3);
/// Pause before starting a child again that died young; it doubles each time.
const PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A process with a keeper.
pub struct Kept {
    service: Arc<Service>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Kept {
    /// Hands a process to a keeper.
    pub fn new(process: Process, screen: &Arc<Screen>) -> Kept {
        let (stop, stopped) = oneshot::channel();
        Kept {
            service: process.service.clone(),
            stop,
            task: tokio::spawn(keep(process, screen.clone(), stopped)),
        }
    }

    /// What is kept.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Ends keeper and process.
    pub async fn stop(self) {
        // The keeper runs until it is told this.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn keep(mut process: Process, screen: Arc<Screen>, mut stopped: oneshot::Receiver<()>) {
    let (mut life, mut pause) = (0, Duration::ZERO);
    loop {
        let service = process.service.clone();
        let what = tokio::select! {
            ended = process.ended() => ended,
            why = watched(&service) => {
                process.stop().await;
                format!("{why}: stopped")
            }
            _ = &mut stopped => return process.stop().await,
        };
        pause = pause_after(process.age(), pause);
        let end = format!("{} (process {}) {what}", service.name, process.pid);
        if !pause.is_zero() {
            screen.line(&format!(
                "{end}; starting it again in {} ms",
                pause.as_millis()
            ));
        }
        let again = again(&service, &mut life, pause, &screen);
        process = tokio::select! {
            process = again => process,
            _ = &mut stopped => return,
        };
        let head = if pause.is_zero() {
            end + ";"
        } else {
            service.name.clone()
        };
        screen.line(&format!("{head} started again as process {}", process.pid));
    }
}

/// Starts a service again, after a pause, until it can be started.
async fn again(
    service: &Arc<Service>,
    life: &mut u32,
    mut pause: Duration,
    screen: &Screen,
) -> Process {
    loop {
        sleep(pause).await;
        *life += 1;
        match Process::spawn(service.clone(), *life) {
            Ok(process) => return process,
            Err(error) => screen.line(&error),
        }
        pause = MAX_PAUSE;
    }
}

async fn watched(service: &Service) -> String {
    match &service.watch {
        Some(watch) => watch().await,
        None => std::future::pending().await,
    }
}

/// The pause before a child is started again that lived for `lived`, when the
/// one before was `last`.
fn pause_after(lived: Duration, last: Duration) -> Duration {
    match lived >= SETTLED {
        true => Duration::ZERO,
        false => (last * 2).clamp(PAUSE, MAX_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_young_waits_longer_each_time() {
        let young = Duration::from_secs(1);
        let mut pause = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pause = pause_after(young, pause);
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        assert_eq!(pause_after(SETTLED, pause), Duration::ZERO);
    }
}
