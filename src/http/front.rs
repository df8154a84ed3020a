//! What the console and the admin port show of the balancer, and have it do.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::handover::front::Row;

/// What an operator has said of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeMode {
    /// It is asked as its health allows.
    Ready,
    /// It is sent nothing new; what it has, it may finish.
    Drain,
    /// It is not even checked; what can be sent elsewhere, leaves it.
    Maint,
}

impl NodeMode {
    /// All of them.
    pub const ALL: [NodeMode; 3] = [NodeMode::Ready, NodeMode::Drain, NodeMode::Maint];

    /// The word in commands.
    pub fn word(self) -> &'static str {
        match self {
            NodeMode::Ready => "ready",
            NodeMode::Drain => "drain",
            NodeMode::Maint => "maint",
        }
    }
}

/// A node of the balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its name in the configuration.
    pub name: String,
    /// Its address there.
    pub address: String,
    /// `up`, `suspect`, `down`, `drain` or `maint`.
    pub state: &'static str,
    /// For how long.
    pub since: Duration,
    /// Requests at it.
    pub in_flight: u64,
    /// Connections that lie idle.
    pub idle: u64,
    /// Checks that were good, and that were not.
    pub checks: [u64; 2],
}

/// A route of the balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteRow {
    /// Its name in the configuration.
    pub name: String,
    /// Its pattern; empty for all that no other has.
    pub path: String,
    /// Its methods; empty for all.
    pub methods: String,
    /// Deadline of a request.
    pub timeout: Duration,
    /// `never`, `proven` or `always`.
    pub replay: String,
    /// How old its kept answers may be; none if none are kept.
    pub cache: Option<Duration>,
    /// Requests that ended.
    pub requests: u64,
    /// Requests sent again.
    pub retries: u64,
}

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRow {
    /// What was asked for.
    pub target: String,
    /// Its bytes in memory.
    pub bytes: usize,
    /// How old it is.
    pub age: Duration,
    /// Whether another one is being fetched.
    pub fetching: bool,
}

/// The balancer, as it is looked at and told from outside.
pub trait Front: Debug + Send + Sync {
    /// Its nodes.
    fn nodes(&self) -> Vec<NodeRow>;

    /// Its routes, in the order they are looked at.
    fn routes(&self) -> Vec<RouteRow>;

    /// The answers it keeps.
    fn kept(&self) -> Vec<KeptRow>;

    /// What another process needs to go on with it.
    ///
    /// # Errors
    /// There are too few descriptors.
    fn hand_over(&self) -> io::Result<Vec<(Row, Option<OwnedFd>)>>;

    /// Has a node go into a mode.
    ///
    /// # Errors
    /// There is no such node, or it is the last one that serves.
    fn set_mode(&self, node: &str, mode: NodeMode) -> Result<(), String>;
}

/// Where the balancer is found once there is one. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FrontSeat(Arc<OnceLock<Arc<dyn Front>>>);

impl FrontSeat {
    /// There is one. A process has one balancer: a second one is not taken.
    pub fn take(&self, front: Arc<dyn Front>) {
        let _taken = self.0.set(front);
    }

    /// The balancer, if there is one.
    pub fn front(&self) -> Option<&dyn Front> {
        self.0.get().map(AsRef::as_ref)
    }
}
