//! Where things of a run are, and what new ones are made of.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::child::Account;
use super::data::Fingerprint;
use super::node::{Spec, here};
use super::pgweir::{Balancing, Plan, Seeding};
use super::ports::Ports;
use super::{DATABASE, POOLED_DATABASES, SLOW_DATABASE};
use crate::options::Options;
use crate::problem::{During, Problem};

/// Where things are, and what new ones are made of.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) account: Account,
    pub(crate) ports: Ports,
    pub(crate) pgweir: PathBuf,
    pub(crate) bingo: PathBuf,
    pub(crate) migrations: PathBuf,
    /// Configuration and logs of this run.
    pub(crate) run: PathBuf,
    /// Kept between runs.
    pub(crate) data: PathBuf,
    /// Held as long as this run lasts.
    _lock: File,
}

impl Shop {
    /// Makes the folders, and copies the programs there: they are built where
    /// the servers' account may not be let in, or built anew during the run.
    pub(super) fn open(options: &Options, seed: u64) -> Result<Shop, Problem> {
        let account = Account::find()?;
        let folder = std::path::absolute(&options.folder).during(options.folder.display())?;
        std::fs::create_dir_all(&folder).during(folder.display())?;
        let lock = File::create(folder.join("lock")).during(folder.display())?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).during(format!(
            "{} is in use by another run; FOLDER names another place",
            folder.display()
        ))?;
        let run = folder.join("run");
        if run.exists() {
            std::fs::remove_dir_all(&run).during(run.display())?;
        }
        account.make_folder(&run)?;
        let migrations = run.join("migrations");
        copy_folder(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations"),
            &migrations,
        )?;
        let programs = run.join("bin");
        account.make_folder(&programs)?;
        Ok(Shop {
            pgweir: copy_program(options.pgweir.as_deref(), "pgweir", &programs)?,
            bingo: copy_program(options.bingo.as_deref(), "bingo", &programs)?,
            data: folder.join(format!("postgres-{}", options.scale)),
            ports: Ports::new(seed),
            account,
            migrations,
            run,
            _lock: lock,
        })
    }

    /// Fails if the kept data are not what was seeded: a run that damaged them
    /// must not make the next one pass.
    pub(super) fn recognise(&self, found: &Fingerprint) -> Result<(), Problem> {
        let file = self.data.join("fingerprint");
        let found = format!("{found:?}\n");
        match std::fs::read_to_string(&file) {
            Ok(seeded) if seeded == found => Ok(()),
            Ok(_) => Err(Problem::new(format!(
                "the data are not as they were seeded; remove {} to have them seeded again",
                self.data.display()
            ))),
            Err(_) => std::fs::write(&file, found).during(file.display()),
        }
    }

    /// Two nodes behind one address.
    pub(super) fn balancing(&mut self, options: &Options) -> Result<Balancing, Problem> {
        let port = self.ports.port(options.balancer_port)?;
        let https_port = self.ports.port(0)?;
        let mut node = |name: &str| Ok((name.to_owned(), here(self.ports.port(0)?)));
        let nodes = vec![node("node1")?, node("node2")?];
        Ok(Balancing {
            port,
            https_port,
            nodes,
        })
    }

    /// The instance in front of everything.
    pub(super) fn plan(
        &mut self,
        options: &Options,
        postgres_port: u16,
        balancing: &Balancing,
    ) -> Result<Plan, Problem> {
        let mut databases = vec![
            (DATABASE.to_owned(), None),
            (SLOW_DATABASE.to_owned(), Some(1)),
        ];
        databases.extend(POOLED_DATABASES.map(|name| (name.to_owned(), None)));
        Ok(Plan {
            folder: self.run.join("pgweir"),
            pooler_port: self.ports.port(options.pooler_port)?,
            metrics_port: self.ports.port(options.metrics_port)?,
            postgres_port,
            databases,
            prepare: self.seeding(&options.scale, "seed", DATABASE, postgres_port)?,
            balancer: Some(balancing.clone()),
        })
    }

    /// Seeding of one database by COPY.
    pub(crate) fn seeding(
        &self,
        scale: &str,
        name: &str,
        database: &str,
        postgres_port: u16,
    ) -> Result<Seeding, Problem> {
        let folder = self.run.join(name);
        self.account.make_folder(&folder)?;
        let config = Spec::config(here(postgres_port), database);
        self.account.write(&folder.join("config.yaml"), &config)?;
        Ok(Seeding {
            database: database.to_owned(),
            bingo: self.bingo.clone(),
            folder,
            scale: scale.to_owned(),
            migrations: self.migrations.clone(),
            unless: None,
        })
    }
}

fn copy_program(named: Option<&Path>, name: &str, folder: &Path) -> Result<PathBuf, Problem> {
    let beside = std::env::current_exe().during("the path of this program")?;
    let program = named.map_or_else(|| beside.with_file_name(name), Path::to_owned);
    let copy = folder.join(name);
    std::fs::copy(&program, &copy).during(format!(
        "{}: build it first (cargo build --release --bins)",
        program.display()
    ))?;
    Ok(copy)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Problem> {
    std::fs::create_dir_all(to).during(to.display())?;
    for entry in std::fs::read_dir(from).during(from.display())? {
        let entry = entry.during(from.display())?;
        let copy = to.join(entry.file_name());
        std::fs::copy(entry.path(), &copy).during(copy.display())?;
    }
    Ok(())
}
