//! A network of its own, joined to this machine by one link.
//!
//! The network lives as long as a process in it, and the link as long as the
//! network: whatever becomes of this program, nothing is left behind.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::child::{Namespace, Process};
use crate::problem::{During, Problem};

/// How long the kernel may take to make the network.
const PATIENCE: Duration = Duration::from_secs(10);

/// The other end's name.
const FAR: &str = "far";

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    /// Holds the network open.
    holder: Process,
    /// This machine's address on the link.
    pub(crate) near: Ipv4Addr,
    /// The network's.
    pub(crate) far: Ipv4Addr,
}

impl Link {
    /// Makes the network and the link. Links that are there at once have
    /// different numbers.
    ///
    /// # Errors
    /// It is not permitted here: it takes root, and a kernel that lets it.
    pub(crate) fn make(folder: &Path) -> Result<Link, Problem> {
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "sleep",
            "infinity",
        ]);
        command.stdin(Stdio::null());
        let log = folder.join("link.log");
        let mut holder = Process::start("unshare --net", command, Signal::KILL, &log)?;
        let id = holder.id();
        wait_for_network(&mut holder)?;
        // RFC 2544: for measurements, so nobody's. Each process has four.
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (id % 0x4000) * 4;
        let (near, far) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        let name = format!("pgw{id}");
        let link = Link { holder, near, far };
        let id = id.to_string();
        run(
            "ip",
            &[
                "link", "add", &name, "type", "veth", "peer", "name", FAR, "netns", &id,
            ],
        )?;
        run(
            "ip",
            &["address", "add", &format!("{near}/30"), "dev", &name],
        )?;
        run("ip", &["link", "set", &name, "up"])?;
        link.inside("ip", &["address", "add", &format!("{far}/30"), "dev", FAR])?;
        link.inside("ip", &["link", "set", "lo", "up"])?;
        link.join()?;
        Ok(link)
    }

    pub(crate) fn namespace(&self) -> Namespace {
        Namespace::of(self.holder.id())
    }

    /// Takes the far end down: what is sent is lost, and nobody is told.
    pub(crate) fn cut(&self) -> Result<(), Problem> {
        self.inside("ip", &["link", "set", FAR, "down"])
    }

    pub(crate) fn join(&self) -> Result<(), Problem> {
        self.inside("ip", &["link", "set", FAR, "up"])
    }

    /// From now on so many of a hundred packets are lost, each way.
    pub(crate) fn lose(&self, percent: u32) -> Result<(), Problem> {
        let lossy = |hook: &str| {
            format!(
                "add chain inet loss {hook} {{ type filter hook {hook} priority 0; }}\n\
                 add rule inet loss {hook} numgen random mod 100 < {percent} counter drop\n"
            )
        };
        let rules = format!("add table inet loss\n{}{}", lossy("input"), lossy("output"));
        self.inside("nft", &[&rules])
    }

    /// Packets that were lost by it.
    pub(crate) fn lost(&self) -> Result<u64, Problem> {
        let listed = output(&mut self.command("nft", &["list", "table", "inet", "loss"]))?;
        let counts = listed.split("counter packets ").skip(1);
        Ok(counts
            .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
            .sum())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.namespace().enter();
        command.arg(program).args(arguments);
        command
    }

    fn inside(&self, program: &str, arguments: &[&str]) -> Result<(), Problem> {
        output(&mut self.command(program, arguments)).map(drop)
    }
}

/// Waits until the process has left this machine's network.
fn wait_for_network(holder: &mut Process) -> Result<(), Problem> {
    let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
    let own = network("self").during("/proc/self/ns/net")?;
    let begun = Instant::now();
    while network(&holder.id().to_string()).is_ok_and(|it| it == own) {
        holder.must_run()?;
        if begun.elapsed() > PATIENCE {
            return Err(Problem::new("unshare --net does not make a network"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    holder.must_run()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Problem> {
    output(Command::new(program).args(arguments)).map(drop)
}

fn output(command: &mut Command) -> Result<String, Problem> {
    let what = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().during(&what)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Problem::new(format!(
            "{what}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}
