//! The balancer's thread.

use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::balancer::{Balancer, Observer, Order};
use crate::config::{Loaded, Warning};

/// Tells what of the balancer's settings makes no sense, before anything is
/// begun.
///
/// # Errors
/// What it is, where, and what to do about it.
pub(super) fn check(loaded: &Loaded) -> Result<(), Warning> {
    let Some(settings) = &loaded.config.balancer else {
        return Ok(());
    };
    Balancer::check(settings).map_err(|error| {
        let error = error.to_string();
        let (what, remedy) = error.split_once("; ").unwrap_or((&error, "correct it"));
        let (setting, _) = what.split_once(": ").unwrap_or_default();
        Warning {
            place: loaded.place_of(setting),
            what: what.to_owned(),
            remedy: format!("In this setting, {remedy}."),
        }
    })
}

/// A running balancer.
pub struct HttpFront {
    orders: watch::Sender<Order>,
    has_left: watch::Receiver<bool>,
    observer: Observer,
    thread: JoinHandle<()>,
}

impl HttpFront {
    /// Runs it on a thread of its own, under this order.
    ///
    /// # Errors
    /// The thread or its runtime could not be had.
    pub fn start(balancer: Balancer, order: Order) -> std::io::Result<HttpFront> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (orders, ordered) = watch::channel(order);
        let (left, has_left) = watch::channel(false);
        let observer = balancer.observer();
        let thread = std::thread::Builder::new()
            .name("balancer".into())
            .spawn(move || {
                let left = || {
                    left.send_replace(true);
                };
                if let Err(error) = runtime.block_on(balancer.run(ordered, left)) {
                    tracing::error!("balancer: {error}");
                }
            })?;
        Ok(HttpFront {
            orders,
            has_left,
            observer,
            thread,
        })
    }

    /// Sees how it is doing.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// Serves whoever comes.
    pub fn serve(&self) {
        self.orders.send_replace(Order::Serve);
    }

    /// Accepts nobody any more and lets requests finish.
    pub fn drain(&self) {
        self.orders.send_replace(Order::Drain);
    }

    /// Another process goes on with its sockets, if it has asked for them.
    /// Returns when nobody is accepted here any more.
    pub async fn leave(&self) {
        self.orders.send_replace(Order::Leave);
        let mut has_left = self.has_left.clone();
        let _ended = has_left.wait_for(|it| *it).await;
    }

    /// Whether the last request has finished.
    pub fn is_drained(&self) -> bool {
        self.thread.is_finished()
    }
}
