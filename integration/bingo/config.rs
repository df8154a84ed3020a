//! The YAML file the application reads, and its defaults.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where the file is, unless `BINGO_SIM_CONFIG` says otherwise.
pub(crate) const PATH: &str = "/opt/bingo/config.yaml";

/// The user a configuration has until somebody chooses one.
const DEFAULT_USER: &str = "postgres";

/// The whole file. A key that is absent has its default.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Identity for the tester; selects the port and the log directory.
    pub(crate) student_email: String,
    /// Where the data is.
    pub(crate) postgres_cluster: PostgresCluster,
}

/// One database, on one host or several.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PostgresCluster {
    /// The hosts of the cluster, a primary and its standbys in any order.
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) db_name: String,
    /// libpq's word; checked when the first connection is prepared.
    pub(crate) ssl_mode: String,
    /// Reads go to the live node that answers soonest, not to the primary.
    pub(crate) use_closest_node: bool,
}

/// A PostgreSQL server or a pooler before it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Host {
    /// Name or address.
    pub(crate) address: String,
    pub(crate) port: u16,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            student_email: "test@example.com".into(),
            postgres_cluster: PostgresCluster::default(),
        }
    }
}

impl Default for PostgresCluster {
    fn default() -> Self {
        PostgresCluster {
            hosts: vec![Host::default()],
            user: DEFAULT_USER.into(),
            password: "postgres".into(),
            db_name: "postgres".into(),
            ssl_mode: "disable".into(),
            use_closest_node: false,
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Host {
            address: "localhost".into(),
            port: 5432,
        }
    }
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read or is not such YAML; the text names the path.
    pub(crate) fn read(path: &Path) -> Result<Config, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Config::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn parse(text: &str) -> Result<Config, serde_yaml_ng::Error> {
        serde_yaml_ng::from_str(text)
    }

    /// The file's text for this configuration, password included.
    pub(crate) fn to_yaml(&self) -> String {
        serde_yaml_ng::to_string(self).expect("strings, numbers and lists have a YAML form")
    }

    /// The configuration for `/config`: JSON, the password blanked.
    pub(crate) fn to_public_json(&self) -> String {
        let mut shown = self.clone();
        shown.postgres_cluster.password = "***".into();
        serde_json::to_string(&shown).expect("strings, numbers and lists have a JSON form")
    }

    /// Whether the database user is the one nobody chose.
    pub(crate) fn has_default_user(&self) -> bool {
        self.postgres_cluster.user == DEFAULT_USER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_TEXT: &str = "\
student_email: test@example.com
postgres_cluster:
  hosts:
  - address: localhost
    port: 5432
  user: postgres
  password: postgres
  db_name: postgres
  ssl_mode: disable
  use_closest_node: false
";

    #[test]
    fn default_configuration_is_printed_in_full() {
        assert_eq!(Config::default().to_yaml(), DEFAULT_TEXT);
    }

    #[test]
    fn default_text_is_usable_as_it_is() {
        assert_eq!(
            Config::parse(DEFAULT_TEXT).expect("valid").to_yaml(),
            DEFAULT_TEXT
        );
    }

    #[test]
    fn several_hosts_are_a_cluster() {
        let text = "postgres_cluster: {hosts: [{address: a, port: 1}, {address: b, port: 2}]}";
        let hosts = Config::parse(text).expect("valid").postgres_cluster.hosts;
        let seen: Vec<_> = hosts
            .iter()
            .map(|host| (host.address.as_str(), host.port))
            .collect();
        assert_eq!(seen, [("a", 1), ("b", 2)]);
    }

    #[test]
    fn absent_keys_have_defaults() {
        let config = Config::parse("postgres_cluster: {user: me}").expect("valid");
        assert_eq!(config.student_email, "test@example.com");
        assert_eq!(config.postgres_cluster.db_name, "postgres");
        assert!(!config.has_default_user());
    }

    #[test]
    fn public_json_hides_the_password() {
        let mut config = Config::default();
        config.postgres_cluster.password = "hunter2".into();
        let json = config.to_public_json();
        assert!(
            !json.contains("hunter2") && json.contains("test@example.com"),
            "{json}"
        );
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = Config::read(Path::new("/nonexistent/config.yaml"))
            .err()
            .expect("valid");
        assert!(error.starts_with("/nonexistent/config.yaml: "), "{error}");
    }
}
