//! Reads a configuration, and again on reload.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{Error, Place, Problem, Warning};
use super::ini::Duplicates;
use super::model::Config;
use super::native::{Metrics, Pgweir, Queries};
use super::pgbouncer::Pgbouncer;
use super::settings::Section;
use super::title::Title;
use super::value::ValueError;
use super::{ini, toml};

/// A configuration and what was odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What loads but is probably not meant.
    pub warnings: Vec<Warning>,
    /// Where each setting was given last.
    pub(super) given: BTreeMap<(Title, String), Place>,
    /// Where each section begins.
    pub(super) opened: BTreeMap<Title, Place>,
}

/// What a reload came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Reloaded {
    /// The configuration from now on.
    pub config: Config,
    /// As of [`Loaded`].
    pub warnings: Vec<Warning>,
    /// Settings the file changes but only a start does, as `section.name`.
    pub ignored: Vec<String>,
    /// As of [`Loaded`].
    pub(super) given: BTreeMap<(Title, String), Place>,
}

impl Reloaded {
    /// Where the file gives a setting, as `section.name`; the file as a whole
    /// if it does not.
    pub fn place_of(&self, setting: &str) -> Place {
        place_of(&self.given, setting, &self.config.path)
    }
}

fn place_of(given: &BTreeMap<(Title, String), Place>, setting: &str, file: &Path) -> Place {
    let is_it = |(title, name): &(Title, String)| format!("{title}.{name}") == setting;
    let place = given.iter().find(|(key, _)| is_it(key));
    place.map_or_else(|| Place::file(file), |(_, place)| place.clone())
}

impl Config {
    /// What holds before a file has said anything: PgBouncer's defaults, and
    /// nothing PgBouncer does not have.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            pgbouncer: Pgbouncer::default(),
            databases: Default::default(),
            autodb: None,
            users: Default::default(),
            peers: Default::default(),
            pgweir: Pgweir::default(),
            metrics: Metrics { listen: None },
            queries: Queries::default(),
            prepare: None,
            balancer: None,
        }
    }

    /// Reads a configuration file: `pgweir.toml` if its name ends in `.toml`,
    /// else a `pgbouncer.ini`. Nothing is applied when anything is wrong.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and remedy.
    pub fn load(path: &Path) -> Result<Loaded, Error> {
        let mut loaded = load(path, Duplicates::Replace)?;
        let conffile = &mut loaded.config.pgbouncer.conffile;
        conffile.get_or_insert_with(|| path.to_string_lossy().into_owned());
        Ok(loaded)
    }
}

/// Reads a file as it is: without the `conffile` that is the file itself.
pub(super) fn load(path: &Path, duplicates: Duplicates) -> Result<Loaded, Error> {
    if is_toml(path) {
        toml::load(path)
    } else {
        ini::load(path, duplicates)
    }
}

/// Whether a file is read as TOML.
fn is_toml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

/// The bytes of a configuration file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| {
        let text = error.to_string();
        // PgBouncer has strerror's text alone.
        let why = text
            .split_once(" (os error")
            .map_or(text.as_str(), |(why, _)| why);
        Error::new(Problem::Unreadable(why.to_owned()), Place::file(path))
    })
}

fn is_given(given: &BTreeMap<(Title, String), Place>, name: &str) -> bool {
    given.contains_key(&(Title::Pgbouncer, name.to_owned()))
}

impl Loaded {
    /// Whether the file gives this setting of `[pgbouncer]`, be it its default.
    pub fn gives(&self, name: &str) -> bool {
        is_given(&self.given, name)
    }

    /// Where the file gives this setting of `[pgbouncer]`; the file as a whole
    /// if it does not.
    pub fn place(&self, name: &str) -> Place {
        let given = self.given.get(&(Title::Pgbouncer, name.to_owned()));
        given
            .cloned()
            .unwrap_or_else(|| Place::file(&self.config.path))
    }

    /// Where the file gives a setting, as `section.name`; the file as a whole
    /// if it does not.
    pub fn place_of(&self, setting: &str) -> Place {
        place_of(&self.given, setting, &self.config.path)
    }

    /// What a running process makes of a file it has read again, by
    /// PgBouncer's rules: settings that only a start changes keep their
    /// running values, settings without a default keep them unless the file
    /// gives another, users whose line is gone keep their settings, and a
    /// forced user cannot be taken from a database.
    pub fn reload(self, running: &Config) -> Reloaded {
        let Self {
            mut config,
            mut warnings,
            given,
            ..
        } = self;
        let mut ignored = Vec::new();
        for setting in Pgbouncer::SETTINGS {
            if setting.default.is_none() && !is_given(&given, setting.name) {
                (setting.copy)(&mut config.pgbouncer, &running.pgbouncer);
            }
        }
        keep_start_only(
            "pgbouncer",
            &mut config.pgbouncer,
            &running.pgbouncer,
            &mut ignored,
        );
        keep_start_only("pgweir", &mut config.pgweir, &running.pgweir, &mut ignored);
        keep_start_only(
            "metrics",
            &mut config.metrics,
            &running.metrics,
            &mut ignored,
        );
        match (&mut config.balancer, &running.balancer) {
            (Some(new), Some(running)) => keep_start_only("balancer", new, running, &mut ignored),
            (None, None) => {}
            (new, running) => {
                ignored.push("balancer".to_owned());
                new.clone_from(running);
            }
        }
        for (name, user) in &running.users {
            config
                .users
                .entry(name.clone())
                .or_insert_with(|| user.clone());
        }
        for (name, old) in &running.databases {
            if let Some(new) = config.databases.get_mut(name)
                && new.user.is_none()
                && old.user.is_some()
            {
                new.user.clone_from(&old.user);
                new.password.clone_from(&old.password);
                warnings.push(Warning {
                    place: Place::file(&config.path),
                    what: "losing forced user not supported, keeping old setting".to_owned(),
                    remedy: format!("Restart to let database \"{name}\" go without its user."),
                });
            }
        }
        Reloaded {
            config,
            warnings,
            ignored,
            given,
        }
    }
}

/// Takes over what only a start changes, and notes what would have changed.
fn keep_start_only<S: Section>(title: &str, new: &mut S, running: &S, ignored: &mut Vec<String>) {
    for setting in S::SETTINGS.iter().filter(|setting| !setting.reloadable) {
        if (setting.get)(new) != (setting.get)(running) {
            ignored.push(format!("{title}.{}", setting.name));
            (setting.copy)(new, running);
        }
    }
}

/// Why the console's `SET` failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetError {
    /// There is no such setting; PgBouncer logs `unknown parameter: pgbouncer/KEY`.
    UnknownKey,
    /// The value is not of the setting's kind.
    BadValue,
}

impl From<ValueError> for SetError {
    fn from(ValueError: ValueError) -> Self {
        Self::BadValue
    }
}

impl Pgbouncer {
    /// The console's `SET`. A setting that only a start changes keeps its
    /// value, and the command succeeds all the same.
    ///
    /// # Errors
    /// Nothing was changed then.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), SetError> {
        let setting = Self::setting(name).ok_or(SetError::UnknownKey)?;
        if setting.reloadable {
            (setting.set)(self, text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ini::read_bytes;

    fn loaded(text: &str) -> Loaded {
        read_bytes(text.as_bytes(), Path::new("a.ini"), Duplicates::Replace).expect("a good file")
    }

    /// A folder of its own for one test.
    fn folder(test: &str) -> std::path::PathBuf {
        let folder =
            std::env::temp_dir().join(format!("pgweir-config-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        folder
    }

    #[test]
    fn a_missing_file_is_named_with_the_systems_reason() {
        let error = Config::load(Path::new("no/such.ini")).expect_err("no file");
        assert_eq!(
            error.pgbouncer_message(),
            "could not load file \"no/such.ini\": No such file or directory"
        );
    }

    #[test]
    fn an_included_file_stands_in_the_section_of_its_include() {
        let folder = folder("include");
        let databases = folder.join("databases.ini");
        std::fs::write(&databases, "d = host=h\n[pgbouncer]\nlisten_port = 5\n").expect("writable");
        let main = folder.join("main.ini");
        let text = format!(
            "[databases]\n%include {}\nmax_client_conn = 6\n",
            databases.display()
        );
        std::fs::write(&main, text).expect("writable");
        let config = Config::load(&main).expect("good").config;
        std::fs::remove_dir_all(&folder).expect("removable");
        assert!(config.databases.contains_key("d"));
        assert_eq!(
            (
                config.pgbouncer.listen_port,
                config.pgbouncer.max_client_conn
            ),
            (5, 6)
        );
        assert_eq!(config.path, main);
    }

    #[test]
    fn a_file_that_includes_itself_is_stopped() {
        let folder = folder("loop");
        let file = folder.join("loop.ini");
        std::fs::write(&file, format!("%include {}\n", file.display())).expect("writable");
        let error = Config::load(&file).expect_err("a loop");
        std::fs::remove_dir_all(&folder).expect("removable");
        let messages = error.pgbouncer_messages();
        let name = file.display();
        assert_eq!(
            messages[0],
            format!("include nesting level too deep ({name}:1), stopping loading")
        );
        assert_eq!(messages.len(), 11);
        assert_eq!(
            messages[10],
            format!("error processing include file in configuration ({name}:1), stopping loading")
        );
    }

    #[test]
    fn a_reload_keeps_what_only_a_start_changes() {
        let running = loaded("[pgbouncer]\nlisten_port = 1\nmax_client_conn = 1\n").config;
        let new = loaded("[pgbouncer]\nlisten_port = 2\nmax_client_conn = 2\n").reload(&running);
        assert_eq!(new.config.pgbouncer.listen_port, 1);
        assert_eq!(new.config.pgbouncer.max_client_conn, 2);
        assert_eq!(new.ignored, ["pgbouncer.listen_port"]);
    }

    #[test]
    fn a_reload_without_a_setting_gives_it_its_default_if_it_has_one() {
        let running =
            loaded("[pgbouncer]\nauth_user = u\nverbose = 2\npool_mode = statement\n").config;
        let new = loaded("[pgbouncer]\n").reload(&running).config.pgbouncer;
        assert_eq!((new.auth_user.as_deref(), new.verbose), (Some("u"), 2));
        assert_eq!(new.pool_mode, crate::config::PoolMode::Session);
        let new = loaded("[pgbouncer]\nverbose = 0\n")
            .reload(&running)
            .config
            .pgbouncer;
        assert_eq!(new.verbose, 0);
    }

    #[test]
    fn a_reload_drops_databases_but_not_users_settings_nor_forced_users() {
        let running = loaded(
            "[databases]\na = user=u password=p\nb =\n[users]\nu = pool_size=3\n[pgbouncer]\n",
        )
        .config;
        let new = loaded("[databases]\na = host=h\n[pgbouncer]\n").reload(&running);
        assert!(!new.config.databases.contains_key("b"));
        assert_eq!(new.config.users["u"].pool_size, Some(3));
        assert_eq!(new.config.databases["a"].user.as_deref(), Some("u"));
        assert_eq!(
            new.warnings[0].what,
            "losing forced user not supported, keeping old setting"
        );
    }

    #[test]
    fn a_reload_neither_starts_nor_ends_the_balancer() {
        let with =
            "[pgbouncer]\n[balancer]\nlisten = 127.0.0.1:80\n[balancer.nodes]\na = address=h:1\n";
        let on = loaded(with).config;
        let off = loaded("[pgbouncer]\n").config;
        let new = loaded(with).reload(&off);
        assert_eq!(
            (new.config.balancer, new.ignored),
            (None, vec!["balancer".to_owned()])
        );
        let moved = with.replace(":80", ":81").replace("h:1", "h:2");
        let new = loaded(&moved).reload(&on);
        assert_eq!(new.place_of("balancer.nodes.a.address").line, 5);
        assert_eq!(new.place_of("balancer.nodes.b.address").line, 0);
        let balancer = new.config.balancer.expect("still there");
        assert_eq!(balancer.listen[0].port(), 80);
        assert_eq!(balancer.nodes["a"].address, "h:2");
        assert_eq!(new.ignored, ["balancer.listen"]);
    }

    #[test]
    fn conffile_is_the_file_unless_the_file_says_otherwise() {
        let folder = folder("conffile");
        let file = folder.join("a.ini");
        std::fs::write(&file, "[pgbouncer]\n").expect("writable");
        let config = Config::load(&file).expect("good").config;
        std::fs::remove_dir_all(&folder).expect("removable");
        assert_eq!(config.pgbouncer.conffile, file.to_str().map(str::to_owned));
    }

    #[test]
    fn set_changes_what_a_reload_changes_and_passes_over_the_rest() {
        let mut settings = Pgbouncer::default();
        assert_eq!(settings.set("max_client_conn", "7"), Ok(()));
        assert_eq!(settings.set("listen_port", "7"), Ok(()));
        assert_eq!(settings.set("listen_prt", "7"), Err(SetError::UnknownKey));
        assert_eq!(
            settings.set("max_client_conn", "x"),
            Err(SetError::BadValue)
        );
        assert_eq!((settings.max_client_conn, settings.listen_port), (7, 6432));
    }
}
