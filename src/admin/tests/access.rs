//! Who may do what.

use super::*;

/// What only admins may.
const ADMIN: &[&str] = &[
    "SET verbose = 0",
    "SET nonsense = 0",
    "RELOAD",
    "PAUSE",
    "PAUSE one",
    "RESUME",
    "RESUME one",
    "DISABLE",
    "DISABLE one",
    "ENABLE one",
    "RECONNECT",
    "RECONNECT one",
    "KILL",
    "KILL one",
    "KILL_CLIENT 1",
    "SUSPEND",
    "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_SERVERS",
    "SHUTDOWN WAIT_FOR_CLIENTS",
    "WAIT_CLOSE",
    "WAIT_CLOSE one",
    "READY NODE a",
    "drain node a",
    "MAINT NODE a",
    "SHOW FDS",
    "SELECT FDS",
];

/// What everybody may.
const EVERYBODY: &[&str] = &[
    "SHOW HELP",
    "SHOW CONFIG",
    "SHOW DATABASES",
    "SHOW POOLS",
    "SHOW CLIENTS",
    "SHOW SERVERS",
    "SHOW USERS",
    "SHOW VERSION",
    "SHOW PEERS",
    "SHOW PEER_POOLS",
    "SHOW SOCKETS",
    "SHOW ACTIVE_SOCKETS",
    "SHOW LISTS",
    "SHOW MEM",
    "SHOW STATE",
    "SHOW DNS_HOSTS",
    "SHOW DNS_ZONES",
    "SHOW STATS",
    "SHOW STATS_TOTALS",
    "SHOW STATS_AVERAGES",
    "SHOW TOTALS",
    "SHOW NODES",
    "SHOW ROUTES",
    "SHOW CACHE",
    "SHOW client_encoding",
    "SHOW default_transaction_isolation",
    "SHOW standard_conforming_strings",
    "SHOW datestyle",
    "SHOW timezone",
    "SET client_encoding = x",
    "SET default_transaction_isolation TO 'read committed'",
    "SET standard_conforming_strings = on",
    "SET DateStyle = x",
    "SET timezone = x",
];

const NEEDED: &str = "ERROR 08P01 admin access needed";

fn scene() -> Scene {
    Scene::new("[databases]\none =\n[pgbouncer]\n")
}

#[test]
fn the_lists_of_this_test_name_every_command_and_item() {
    let listed = [ADMIN, EVERYBODY].concat().join("\n").to_uppercase();
    for word in super::super::command::help()
        .split(|c: char| !c.is_ascii_uppercase() && c != '_')
        .filter(|word| !word.is_empty())
    {
        assert!(listed.contains(word), "{word} is not tested");
    }
}

#[tokio::test]
async fn stats_users_may_only_look() {
    let scene = scene();
    let mut psql = scene.stats_user().await;
    for command in ADMIN {
        assert_eq!(psql.ask(command).await.errors(), [NEEDED], "{command}");
    }
    for command in EVERYBODY {
        let answer = psql.ask(command).await;
        assert_eq!(answer.errors(), [""; 0], "{command}");
        assert_eq!(answer.tag(), command[..4].trim_end(), "{command}");
    }
    assert!(scene.process.shutdowns.lock().expect("no panic").is_empty());
    assert!(!scene.bouncer.is_paused());
    assert!(!scene.database("one").is_paused());
    assert!(!scene.database("one").is_disabled());
}

#[tokio::test]
async fn admins_may_do_everything() {
    for command in ADMIN.iter().chain(EVERYBODY) {
        // Each on a fresh one: some leave it paused.
        let scene = scene();
        let mut psql = scene.admin().await;
        let errors = psql.ask(command).await.errors();
        assert!(!errors.contains(&NEEDED.to_owned()), "{command}");
    }
}

#[tokio::test]
async fn a_right_given_or_taken_by_set_holds_from_the_next_login_on() {
    let scene = scene();
    let mut psql = scene.admin().await;
    assert_eq!(
        psql.ask("SET admin_users=''").await.tag(),
        "SET admin_users="
    );
    assert_eq!(psql.ask("SET verbose=1").await.tag(), "SET verbose=1");
}
