//! The balancer's thread.

use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::balancer::Balancer;

/// A running balancer.
pub struct HttpFront {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl HttpFront {
    /// Runs it on a thread of its own.
    ///
    /// # Errors
    /// The thread or its runtime could not be had.
    pub fn start(balancer: Balancer) -> std::io::Result<HttpFront> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, mut stopped) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("balancer".into())
            .spawn(move || {
                let shutdown = async move {
                    drop(stopped.wait_for(|stop| *stop).await);
                };
                if let Err(error) = runtime.block_on(balancer.run(shutdown)) {
                    tracing::error!("balancer: {error}");
                }
            })?;
        Ok(HttpFront { stop, thread })
    }

    /// Accepts nobody any more and lets requests finish.
    pub fn drain(&self) {
        self.stop.send_replace(true);
    }

    /// Whether the last request has finished.
    pub fn is_drained(&self) -> bool {
        self.thread.is_finished()
    }
}
