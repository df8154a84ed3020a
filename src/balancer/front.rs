//! What the console and the admin port see of the balancer, and what it does
//! for them.

use std::io;
use std::os::fd::OwnedFd;

use super::{Observer, handover};
use crate::config::Value;
use crate::handover::front::Row;
use crate::http::{Front, KeptRow, NodeMode, NodeRow, RouteRow};

impl Front for Observer {
    fn nodes(&self) -> Vec<NodeRow> {
        let core = self.current.get();
        core.map(|core| core.nodes.rows()).unwrap_or_default()
    }

    fn routes(&self) -> Vec<RouteRow> {
        let Some(core) = self.current.get() else {
            return Vec::new();
        };
        let row = |(number, route): (usize, &super::route::Route)| {
            let (requests, retries) = core.metrics.of_route(super::route::RouteId(number));
            RouteRow {
                name: route.name.clone(),
                path: route.pattern.clone(),
                methods: route.methods(),
                timeout: route.timeout,
                replay: route.replay.show().unwrap_or_default(),
                cache: route.cache.map(|it| it.max_age()),
                requests,
                retries,
            }
        };
        core.routes.iter().enumerate().map(row).collect()
    }

    fn kept(&self) -> Vec<KeptRow> {
        let row = |(target, bytes, age, fetching)| KeptRow {
            target,
            bytes,
            age,
            fetching,
        };
        self.cache.list().into_iter().map(row).collect()
    }

    fn hand_over(&self) -> io::Result<Vec<(Row, Option<OwnedFd>)>> {
        match self.current.get() {
            Some(core) => handover::tell(&core, &self.sockets),
            None => Ok(Vec::new()),
        }
    }

    fn set_mode(&self, node: &str, mode: NodeMode) -> Result<(), String> {
        let core = self.current.get().ok_or("the balancer has ended")?;
        let nodes = &core.nodes;
        let number = (0..nodes.len()).find(|number| nodes.get(*number).name == node);
        let number = number.ok_or_else(|| format!("no such node: {node}"))?;
        nodes.set_mode(number, mode)
    }
}
