//! What runs, in the order it was started.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keeper::Kept;
use super::screen::Screen;
use super::service::{Process, Service};

/// The demo's children.
pub struct Running {
    screen: Arc<Screen>,
    /// One that is not ready yet.
    starting: Option<Process>,
    kept: Vec<Kept>,
}

impl Running {
    /// None.
    pub fn new(screen: &Arc<Screen>) -> Running {
        Running {
            screen: screen.clone(),
            starting: None,
            kept: Vec::new(),
        }
    }

    /// Nothing was started, or everything has ended.
    pub fn is_empty(&self) -> bool {
        self.starting.is_none() && self.kept.is_empty()
    }

    /// Starts a service, waits until it is `ready`, and has it kept from then
    /// on. Answers the number of its process.
    ///
    /// # Errors
    /// It did not become ready within `limit`.
    pub async fn start<F: Future<Output = Result<(), String>>>(
        &mut self,
        service: Service,
        limit: Duration,
        ready: impl FnMut() -> F,
    ) -> Result<u32, String> {
        let process = self.starting.insert(Process::start(service)?);
        let pid = process.pid;
        process.until(limit, ready).await?;
        if let Some(process) = self.starting.take() {
            self.kept.push(Kept::new(process, &self.screen));
        }
        Ok(pid)
    }

    /// Ends all of them by their turns.
    pub async fn stop(&mut self) {
        if self.is_empty() {
            return;
        }
        if let Some(mut process) = self.starting.take() {
            let name = process.service.name.clone();
            timed(&self.screen, &name, process.stop()).await;
        }
        self.kept.sort_by_key(|kept| kept.service().turn);
        for kept in self.kept.drain(..) {
            let name = kept.service().name.clone();
            timed(&self.screen, &name, kept.stop()).await;
        }
        let stay = "everything is stopped; the data stay for the next start";
        self.screen.line(stay);
    }
}

async fn timed(screen: &Screen, name: &str, stopping: impl Future<Output = ()>) {
    let begun = Instant::now();
    stopping.await;
    let took = begun.elapsed().as_millis();
    screen.line(&format!("stopped {name} in {took} ms"));
}
