//! A Redis Cluster on loopback.

use super::eventually;
use super::process::{Folder, server_command, spawn};
use crate::front::{bounded, free_ports};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Output, Stdio};

/// How long a node is away before the others take it for dead, in
/// milliseconds.
const NODE_TIMEOUT: &str = "1000";

/// Three masters, and as many replicas if they are asked for. Runs for as long
/// as it lives.
#[derive(Debug)]
pub(crate) struct RedisCluster {
    nodes: Vec<(u16, Child)>,
    _folder: Folder,
}

impl RedisCluster {
    pub(crate) fn start() -> RedisCluster {
        let ports: [u16; 6] = free_ports();
        RedisCluster::of(&ports, "0")
    }

    /// Each master has a replica that takes its place.
    pub(crate) fn with_replicas() -> RedisCluster {
        let ports: [u16; 12] = free_ports();
        RedisCluster::of(&ports, "1")
    }

    /// Half of the ports are for what the nodes say to each other.
    fn of(ports: &[u16], replicas: &str) -> RedisCluster {
        let folder = Folder::new("redis");
        let (own, among) = ports.split_at(ports.len() / 2);
        let node = |(port, among): (&u16, &u16)| {
            let mut command = server_command(Path::new("redis-server"), "KILL");
            let [port_word, among] = [port, among].map(u16::to_string);
            command.args(["--port", &port_word, "--cluster-port", &among]);
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command.args(["--cluster-enabled", "yes"]);
            command.args(["--cluster-config-file", &format!("{port}.conf")]);
            command.args(["--cluster-node-timeout", NODE_TIMEOUT]);
            command.args(["--repl-diskless-sync-delay", "0"]);
            command.arg("--dir").arg(folder.path());
            command.stdout(Stdio::null()).stderr(Stdio::null());
            (*port, spawn(command))
        };
        let nodes = own.iter().zip(among).map(node).collect();
        let cluster = RedisCluster {
            nodes,
            _folder: folder,
        };
        for port in own {
            eventually("a node of Redis listens", || {
                let reached = TcpStream::connect(("127.0.0.1", *port));
                reached.map(drop).map_err(|error| error.to_string())
            });
        }
        let mut create = bounded("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(own.iter().map(|port| format!("127.0.0.1:{port}")));
        create.args(["--cluster-replicas", replicas, "--cluster-yes"]);
        let said = create.output().expect("redis-cli runs");
        assert!(said.status.success(), "{said:?}");
        for port in own {
            eventually("the cluster is one", || {
                let info = cluster.says(*port, &["CLUSTER", "INFO"]);
                let all = format!("cluster_known_nodes:{}", own.len());
                let role = cluster.says(*port, &["INFO", "replication"]);
                let is_linked =
                    role.contains("role:master") || role.contains("master_link_status:up");
                match info.contains("cluster_state:ok") && info.contains(&all) && is_linked {
                    true => Ok(()),
                    false => Err(format!("{info}\n{role}")),
                }
            });
        }
        cluster
    }

    /// `shared_cache` in the configuration.
    pub(crate) fn setting(&self) -> String {
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|(port, _)| format!("\"redis://127.0.0.1:{port}\""));
        let nodes: Vec<_> = nodes.collect();
        format!("shared_cache = [{}]\n", nodes.join(", "))
    }

    /// What the cluster answers, wherever the key of this command is.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut cli = bounded("redis-cli");
        cli.args(["-c", "-p", &self.nodes[0].0.to_string()]);
        said(&cli.args(words).output().expect("redis-cli runs"))
    }

    /// The bytes of a value.
    pub(crate) fn value(&self, key: &str) -> Vec<u8> {
        let mut cli = bounded("redis-cli");
        cli.args(["-c", "-p", &self.nodes[0].0.to_string(), "GET", key]);
        let mut value = cli.output().expect("redis-cli runs").stdout;
        // It adds an end of line.
        value.pop();
        value
    }

    /// Puts these bytes in the place of a value.
    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        let mut cli = bounded("redis-cli");
        cli.args(["-c", "-p", &self.nodes[0].0.to_string()]);
        cli.args(["-x", "SET", key]).stdin(Stdio::piped());
        let mut cli = cli.stdout(Stdio::piped()).spawn().expect("redis-cli runs");
        let mut input = cli.stdin.take().expect("piped");
        input.write_all(value).expect("it reads");
        drop(input);
        assert_eq!(said(&cli.wait_with_output().expect("it ends")), "OK");
        assert_eq!(self.ask(&["PEXPIRE", key, "50000"]), "1");
    }

    /// Has every node do this.
    pub(crate) fn all(&self, words: &[&str]) {
        for (port, _) in &self.nodes {
            self.says(*port, words);
        }
    }

    fn says(&self, port: u16, words: &[&str]) -> String {
        let mut cli = bounded("redis-cli");
        cli.args(["-p", &port.to_string()]).args(words);
        said(&cli.output().expect("redis-cli runs"))
    }

    /// The nodes accept, and answer nothing.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// They go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        for (_, node) in &self.nodes {
            kill_process(Pid::from_child(node), signal).expect("it runs");
        }
    }

    /// Kills the node with this number; the first three are masters.
    pub(crate) fn kill(&mut self, node: usize) {
        let (_, child) = &mut self.nodes[node];
        child.kill().expect("it ran");
        child.wait().expect("it ends");
    }

    /// Kills all.
    pub(crate) fn kill_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.kill(node);
        }
    }
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim_end().replace('\r', "")
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        for (_, node) in &mut self.nodes {
            node.kill().ok();
            node.wait().ok();
        }
    }
}
