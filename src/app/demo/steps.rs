//! The demo from its first step to its last line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::sleep;

use super::account::Account;
use super::follow::Follower;
use super::ground::{self, NAME};
use super::live;
use super::load::Load;
use super::nodes::{self, Node};
use super::options::Options;
use super::place::Place;
use super::ports;
use super::postgres::{self, Postgres};
use super::programs::Programs;
use super::running::Running;
use super::screen::{Screen, clock};
use super::secrets::Secrets;
use super::{hints, weir};

/// How many steps there are.
const STEPS: u32 = 5;

/// What an earlier run left behind is gone by then.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(10);

/// Time for the balancer to notice that the nodes are well.
const HEALTH_LIMIT: Duration = Duration::from_secs(20);

/// Open files that the children may have, if the system lets them: a client of
/// the pooler is one.
const FILES: u64 = 65_536;

/// Everything that is known before anything is started.
pub struct Demo<'a> {
    options: &'a Options,
    screen: &'a Arc<Screen>,
    project: PathBuf,
    account: Account,
    programs: Programs,
    place: Place,
    secrets: Secrets,
}

/// Removes what the demo made.
///
/// # Errors
/// It runs, or belongs to another user.
pub fn clean(screen: &Screen) -> Result<(), String> {
    match ground::remove(&project()?)? {
        Some(removed) => screen.text(&format!("removed {}\n", removed.display())),
        None => screen.text(&format!("there is no {NAME} here\n")),
    }
    Ok(())
}

/// The source folder: the demo needs its migrations, and keeps its own folder
/// there.
fn project() -> Result<PathBuf, String> {
    let here = std::env::current_dir().map_err(|error| format!("where is this: {error}"))?;
    match here.join("migrations").is_dir() {
        true => Ok(here),
        false => Err(format!(
            "{} is not pgweir's source folder (it has no migrations/): run `make demo` there",
            here.display()
        )),
    }
}

impl<'a> Demo<'a> {
    /// Looks at everything that can be wrong before anything is started.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn new(options: &'a Options, screen: &'a Arc<Screen>) -> Result<Demo<'a>, String> {
        let project = project()?;
        let account = Account::find()?;
        let programs = Programs::find()?;
        let place = Place::open(&project, &account)?;
        let secrets = secrets(&place)?;
        raise_file_limit();
        Ok(Demo {
            options,
            screen,
            project,
            account,
            programs,
            place,
            secrets,
        })
    }

    /// Starts everything, then tells how it goes for ever. Ends only because it
    /// failed; answers why.
    pub async fn live(&self, running: &mut Running) -> String {
        match self.all_steps(running).await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    /// All children have ended.
    pub fn ended_well(&self) {
        self.place.ended_well();
    }

    async fn all_steps(&self, running: &mut Running) -> Result<std::convert::Infallible, String> {
        self.prepare_folder().await?;
        let postgres = self.postgres();
        self.start_postgres(&postgres, running).await?;
        self.start_pgweir(running).await?;
        let pids = self.start_nodes(running).await?;
        self.ready(&pids).await
    }

    fn step(&self, number: u32, what: &str) {
        self.screen.line(&format!("[{number}/{STEPS}] {what}"));
    }

    async fn prepare_folder(&self) -> Result<(), String> {
        let (place, account) = (&self.place, &self.account);
        self.step(
            1,
            &format!(
                "folder {}, children run as {}",
                place.root().display(),
                account.name
            ),
        );
        if place.elsewhere {
            self.screen.line(&format!(
                "   {} cannot enter this folder, so {NAME} leads there",
                account.name
            ));
        }
        self.wait_for_ports().await?;
        let (needed, free) = (self.options.scale.disk(), place.free_space());
        if !self.postgres().is_there() && free < needed {
            return Err(format!(
                "{} has {free} MiB free, scale {} needs {needed}: make room, or take a smaller one, as `make demo SCALE=ci`",
                place.root().display(),
                self.options.scale
            ));
        }
        place.folder("log")?;
        let own =
            std::env::current_exe().map_err(|error| format!("where is this program: {error}"))?;
        let bingo = own.with_file_name("bingo");
        if !bingo.is_file() {
            return Err(format!(
                "{} is not there: run `cargo build --release --bin bingo`",
                bingo.display()
            ));
        }
        place.install(&own, "pgweir")?;
        place.install(&bingo, "bingo")
    }

    /// What a killed run left behind may still hold ports for a moment.
    async fn wait_for_ports(&self) -> Result<(), String> {
        let begun = Instant::now();
        while let Some(trouble) = self.options.ports.trouble(ports::busy) {
            if !self.place.unclean || begun.elapsed() > LEFTOVER_LIMIT {
                return Err(trouble);
            }
            self.screen.passing("   waiting for the last run to end");
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    fn postgres(&self) -> Postgres<'_> {
        Postgres {
            place: &self.place,
            account: &self.account,
            programs: &self.programs,
            scale: self.options.scale,
            port: self.options.ports.postgres,
        }
    }

    async fn start_postgres(
        &self,
        postgres: &Postgres<'_>,
        running: &mut Running,
    ) -> Result<(), String> {
        let (version, port) = (self.programs.major(), self.options.ports.postgres);
        self.step(
            2,
            &format!(
                "PostgreSQL {version} on 127.0.0.1:{port}, scale {}",
                self.options.scale
            ),
        );
        if !postgres.is_there() {
            self.screen
                .line("   making its data folder; fsync is off, as suits a demo");
            postgres.init(&self.secrets).await?;
        }
        postgres.clear().await?;
        let ready = || postgres.answers(&self.secrets);
        running
            .start(postgres.service()?, postgres::START_LIMIT, ready)
            .await?;
        postgres.provide(&self.secrets).await
    }

    async fn start_pgweir(&self, running: &mut Running) -> Result<(), String> {
        let (place, options) = (&self.place, self.options);
        let ports = &options.ports;
        self.step(
            3,
            &format!(
                "pgweir: seed, migrate, then serve PostgreSQL on {}, HTTP on {}, HTTPS and HTTP/3 on {}, metrics on {}",
                ports.pooler, ports.http, ports.https, ports.metrics
            ),
        );
        nodes::install_seeding(place, ports.postgres, &self.secrets)?;
        weir::install(place, &self.project, ports, options.scale, &self.secrets)?;
        let follower = std::cell::RefCell::new(Follower::new(place.path("log/pgweir.log")));
        let ready = || {
            weir::tell_progress(&mut follower.borrow_mut(), self.screen);
            weir::answers(ports, &self.secrets)
        };
        running
            .start(
                weir::service(place, &self.account),
                weir::START_LIMIT,
                ready,
            )
            .await?;
        weir::tell_progress(&mut follower.borrow_mut(), self.screen);
        Ok(())
    }

    async fn start_nodes(&self, running: &mut Running) -> Result<Vec<(&'static str, u32)>, String> {
        let ports = &self.options.ports;
        let nodes = nodes::nodes(ports.node1, ports.node2);
        let names = nodes
            .each_ref()
            .map(|node| format!("{} on {}", node.name, node.port));
        self.step(
            4,
            &format!("two nodes of the application: {}", names.join(", ")),
        );
        let mut pids = Vec::new();
        for node in &nodes {
            pids.push((node.name, self.start_node(node, running).await?));
        }
        let begun = Instant::now();
        while live::healthy_nodes(ports.metrics).await? < nodes.len() as f64 {
            if begun.elapsed() > HEALTH_LIMIT {
                return Err("the balancer does not find both nodes healthy, though they answer; see .demo/log/pgweir.log".to_owned());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(pids)
    }

    async fn start_node(&self, node: &Node, running: &mut Running) -> Result<u32, String> {
        let service = node.service(
            &self.place,
            &self.account,
            self.options.ports.pooler,
            &self.secrets,
        )?;
        running
            .start(service, nodes::START_LIMIT, || nodes::answers(node.port))
            .await
    }

    /// Tells what can be tried, and how it goes, for ever.
    async fn ready(
        &self,
        pids: &[(&'static str, u32)],
    ) -> Result<std::convert::Infallible, String> {
        let Options {
            rps, scale, ports, ..
        } = self.options;
        let took = clock(self.screen.elapsed());
        self.screen.text(&format!(
            "ready in {}: http://127.0.0.1:{}/ https://localhost:{}/\n",
            took.trim(),
            ports.http,
            ports.https
        ));
        self.screen.text(&hints::list(Path::new(NAME), ports, pids));
        self.step(
            STEPS,
            &match rps {
                0 => "no traffic of its own (RPS=0); Ctrl-C stops everything".to_owned(),
                rps => format!("{rps} requests a second of mixed traffic; Ctrl-C stops everything"),
            },
        );
        self.screen.text(&format!("\n{}\n\n", live::LEGEND));
        let load = Arc::new(Load::new(ports.http, *rps, scale.rows()));
        tokio::join!(
            load.clone().run(),
            live::run(self.screen, ports.metrics, &load)
        );
        Err("the traffic ended by itself".to_owned())
    }
}

/// The passwords, made at the first start.
fn secrets(place: &Place) -> Result<Secrets, String> {
    let path = place.path("pgpass");
    let known = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| Secrets::from_pgpass(&text));
    match known {
        Some(secrets) => Ok(secrets),
        None if place.path("postgres").exists() => Err(format!(
            "{} is gone or damaged, and with it the passwords of the databases beside it: `make demo-clean` begins anew",
            path.display()
        )),
        None => {
            let secrets = Secrets::generate()?;
            place.write_own("pgpass", &secrets.to_pgpass())?;
            Ok(secrets)
        }
    }
}

/// Children inherit it.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES, |maximum| maximum.min(FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        let limit = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        // With the old one fewer clients fit.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
