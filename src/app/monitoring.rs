//! The admin port and what it shows.

use std::time::SystemTime;

use prometheus::Registry;
use prometheus::core::Collector;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::http::{AdminPort, FrontSeat, Readiness, Reloads};

/// Whoever has something to show does it here.
pub struct Monitoring {
    /// Whether clients are served.
    pub readiness: Readiness,
    /// How reading the configuration went.
    pub reloads: Reloads,
    /// The balancer, once there is one.
    pub front: FrontSeat,
    /// What `/metrics` shows.
    pub registry: Registry,
    port: Option<(watch::Sender<bool>, JoinHandle<std::io::Result<()>>)>,
}

impl Monitoring {
    /// Opens the port, if the configuration has one, and serves it on
    /// `control`.
    ///
    /// # Errors
    /// One line that says why it cannot be had.
    pub fn open(config: &Config, control: &Runtime) -> Result<Monitoring, String> {
        let mut monitoring = Monitoring {
            readiness: Readiness::new(),
            reloads: Reloads::new(SystemTime::now()),
            front: FrontSeat::default(),
            registry: Registry::new(),
            port: None,
        };
        if let Some(address) = config.metrics.listen {
            let port = AdminPort::bind(address).map_err(|error| error.to_string())?;
            let address = port.address().map_err(|error| error.to_string())?;
            tracing::info!("metrics on http://{address}/metrics");
            let (stop, stopped) = watch::channel(false);
            let (registry, readiness) = (monitoring.registry.clone(), monitoring.readiness.clone());
            let front = monitoring.front.clone();
            let served = control.spawn(port.serve(registry, readiness, front, stopped));
            monitoring.port = Some((stop, served));
        }
        Ok(monitoring)
    }

    /// Shows what this tells.
    pub fn show(&self, collector: impl Collector + 'static) {
        let registered = self.registry.register(Box::new(collector));
        registered.expect("every family has a name of its own");
    }

    /// Begins to close the port, for the next process.
    pub fn give_up(&self) {
        if let Some((stop, _)) = &self.port {
            stop.send_replace(true);
        }
    }

    /// Lets requests finish and closes the port.
    pub fn close(self, control: &Runtime) {
        if let Some((stop, served)) = self.port {
            stop.send_replace(true);
            if let Ok(Err(error)) = control.block_on(served) {
                tracing::error!("admin port: {error}");
            }
        }
    }
}
