//! Commands that are answered at once.

use super::*;
use crate::config::PoolMode;

const INI: &str = "[databases]\none = host=127.0.0.1 port=1\n[pgbouncer]\n";

/// Asks one by one; each must be answered with this tag, or this error.
async fn converse(scene: &Scene, queries: &[(&str, &str)]) {
    let mut psql = scene.admin().await;
    for (query, expected) in queries {
        let answer = psql.ask(query).await;
        let said = match &answer.errors()[..] {
            [error] => error.replacen("ERROR 08P01 ", "! ", 1),
            _ => answer.tag(),
        };
        assert_eq!(said, *expected, "{query}");
    }
}

#[tokio::test]
async fn set_echoes_what_it_set() {
    let scene = Scene::new(INI);
    let pool = scene
        .bouncer
        .pool(&scene.database("one"), &scene.bouncer.user("ann"));
    assert_eq!(pool.mode(), PoolMode::Session);
    converse(
        &scene,
        &[
            ("set pool_mode=transaction;", "SET pool_mode=transaction"),
            (
                "SET server_check_query TO 'it''s'",
                "SET server_check_query=it's",
            ),
            (
                "set server_idle_timeout = '1.5'",
                "SET server_idle_timeout=1.5",
            ),
            ("set stats_users = ''", "SET stats_users="),
            // Only a start changes it; PgBouncer says so to nobody.
            ("set listen_port = 1", "SET listen_port=1"),
        ],
    )
    .await;
    assert_eq!(pool.mode(), PoolMode::Transaction);
    let config = scene.bouncer.config();
    assert_eq!(config.pgbouncer.server_check_query, "it's");
    assert_eq!(
        config.pgbouncer.server_idle_timeout,
        Duration::from_millis(1500)
    );
    assert_eq!(config.pgbouncer.listen_port, 6432);
    let changes = *scene.process.changes.lock().expect("no panic");
    assert_eq!(changes, 5, "the process is told of each");
}

#[tokio::test]
async fn set_of_tls_that_cannot_be_used_succeeds_with_a_notice() {
    let scene = Scene::new(INI);
    let mut psql = scene.admin().await;
    for (fails, key, told) in [
        (false, "client_tls_sslmode=disable", false),
        (true, "client_tls_sslmode=require", true),
        (true, "server_tls13_ciphers=nonsense", true),
        (true, "pool_mode=session", false),
    ] {
        scene.process.tls_fails.store(fails, Ordering::Relaxed);
        let answer = psql.ask(&format!("SET {key}")).await;
        assert_eq!(answer.tag(), format!("SET {key}"));
        let notices: Vec<_> = answer.bodies(backend::NOTICE_RESPONSE).collect();
        let text = b"SNOTICE\0C00000\0MTLS settings could not be applied, \
                     still using old configuration\0\0";
        let expected: &[&[u8]] = if told { &[text] } else { &[] };
        assert_eq!(notices, expected, "{key}");
    }
}

#[tokio::test]
async fn set_of_a_bad_key_or_value_fails_and_changes_nothing() {
    let scene = Scene::new(INI);
    let before = Config::clone(&scene.bouncer.config());
    converse(
        &scene,
        &[
            ("set nonsense=1", "! SET failed"),
            ("set POOL_MODE=session", "! SET failed"),
            ("set pool_mode=nonsense", "! SET failed"),
            ("set verbose=''", "! SET failed"),
            ("set \"\"=1", "! bad arguments"),
        ],
    )
    .await;
    assert_eq!(before, **scene.bouncer.config());
}

#[tokio::test]
async fn words_that_are_no_command_are_told_back() {
    let scene = Scene::new(INI);
    for query in [
        "",
        ";",
        "drop",
        "reload one",
        "suspend x",
        "shutdown now",
        "pause one two",
        "set",
        "set x",
        "pause; resume",
        "é",
    ] {
        let expected = format!("! invalid command '{query}', use SHOW HELP;");
        converse(&scene, &[(query, &expected)]).await;
    }
    let long = "a".repeat(16);
    converse(&scene, &[(long.as_str(), "! bad arguments")]).await;
}

#[tokio::test]
async fn pause_and_resume_tell_what_is_not_so() {
    let scene = Scene::new(INI);
    converse(
        &scene,
        &[
            ("resume", "! pooler is not paused/suspended"),
            ("resume one", "! database one is not paused"),
            ("resume nobody", "! no such database: nobody"),
            ("resume pgbouncer", "! database pgbouncer is not paused"),
            ("pause nobody", "! no such database: nobody"),
            ("pause pgbouncer", "! cannot pause admin db: pgbouncer"),
            ("pause one", "PAUSE"),
            ("pause one", "PAUSE"),
            ("pause", "PAUSE"),
            ("pause", "! already suspended/paused"),
            ("pause one", "! already suspended/paused"),
            ("kill one", "! already suspended/paused"),
            ("kill", "! already suspended/paused"),
            ("RESUME;", "RESUME"),
            ("resume", "! pooler is not paused/suspended"),
            ("resume one", "RESUME"),
            ("resume one", "! database one is not paused"),
            ("pause \"\"", "PAUSE"),
        ],
    )
    .await;
    assert!(scene.bouncer.is_paused());
}

#[tokio::test]
async fn a_shutdown_cannot_be_resumed() {
    let scene = Scene::new(INI);
    scene.bouncer.set_shutting_down();
    scene.bouncer.set_paused(None, true);
    converse(
        &scene,
        &[
            ("resume", "! pooler is shutting down"),
            ("show version", "SHOW"),
            ("show state", "SHOW"),
        ],
    )
    .await;
    assert!(scene.bouncer.is_paused());
}

#[tokio::test]
async fn disable_and_enable_want_a_database() {
    let scene = Scene::new(INI);
    converse(
        &scene,
        &[
            ("disable", "! a database is required"),
            ("enable", "! a database is required"),
            ("disable nobody", "! no such database: nobody"),
            ("enable nobody", "! no such database: nobody"),
            ("disable pgbouncer", "! cannot disable admin db: pgbouncer"),
            ("enable pgbouncer", "! cannot enable admin db: pgbouncer"),
            ("disable one", "DISABLE"),
        ],
    )
    .await;
    assert!(scene.database("one").is_disabled());
    converse(&scene, &[("enable one", "ENABLE")]).await;
    assert!(!scene.database("one").is_disabled());
}

#[tokio::test]
async fn automatic_databases_are_made_for_some_commands_and_not_for_others() {
    let scene = Scene::new("[databases]\n* =\n[pgbouncer]\n");
    converse(
        &scene,
        &[
            ("resume a", "! no such database: a"),
            ("enable a", "! no such database: a"),
            ("pause a", "PAUSE"),
            ("resume a", "RESUME"),
            ("disable b", "DISABLE"),
            ("enable b", "ENABLE"),
            ("kill c", "KILL"),
            ("resume c", "RESUME"),
            ("reconnect d", "RECONNECT"),
            ("wait_close e", "WAIT_CLOSE"),
            ("resume e", "! database e is not paused"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_consoles_own_database_is_left_alone() {
    let scene = Scene::new("[databases]\n* =\n[pgbouncer]\n");
    converse(
        &scene,
        &[
            (
                "reconnect pgbouncer",
                "! cannot reconnect admin db: pgbouncer",
            ),
            ("kill pgbouncer", "! cannot kill admin db: pgbouncer"),
            (
                "wait_close pgbouncer",
                "! cannot wait in admin db: pgbouncer",
            ),
        ],
    )
    .await;
    assert!(scene.bouncer.databases().is_empty());
}

#[tokio::test]
async fn kill_client_wants_the_id_of_one() {
    let scene = Scene::new(INI);
    converse(
        &scene,
        &[
            ("kill_client", "! invalid client pointer supplied"),
            ("kill_client x", "! invalid client pointer supplied"),
            ("kill_client \"-1\"", "! invalid client pointer supplied"),
            ("kill_client 4711", "! client not found"),
        ],
    )
    .await;
}

#[tokio::test]
async fn reload_asks_the_process() {
    let scene = Scene::new(INI);
    let mut psql = scene.admin().await;
    assert_eq!(psql.ask("reload").await.tag(), "RELOAD");
    let error = Some("no such file".to_owned());
    *scene.process.reload_error.lock().expect("no panic") = error;
    assert_eq!(
        psql.ask("RELOAD;").await.errors(),
        ["ERROR F0000 RELOAD failed, see logs for additional details"]
    );
}

#[tokio::test]
async fn a_waiting_shutdown_is_answered_and_an_immediate_one_is_not() {
    let scene = Scene::new(INI);
    let mut psql = scene.admin().await;
    assert_eq!(
        psql.ask("shutdown wait_for_servers").await.tag(),
        "SHUTDOWN"
    );
    assert_eq!(
        psql.ask("SHUTDOWN WAIT_FOR_CLIENTS;").await.tag(),
        "SHUTDOWN"
    );
    assert_eq!(psql.ask("shutdown").await, Answer(vec![(END, vec![])]));
    let shutdowns = scene.process.shutdowns.lock().expect("no panic").clone();
    assert_eq!(
        shutdowns,
        [
            ShutdownMode::WaitForServers,
            ShutdownMode::WaitForClients,
            ShutdownMode::Immediate
        ]
    );
}

#[tokio::test]
async fn suspend_and_pause_exclude_each_other() {
    let scene = Scene::new(INI);
    converse(
        &scene,
        &[
            ("suspend", "SUSPEND"),
            ("suspend", "! already suspended/paused"),
            ("pause", "! already suspended/paused"),
            ("pause one", "! already suspended/paused"),
            ("resume", "RESUME"),
            ("resume", "! pooler is not paused/suspended"),
            ("pause one", "PAUSE"),
            ("suspend", "! cannot suspend with paused databases"),
            ("pause", "PAUSE"),
            ("suspend", "! already suspended/paused"),
        ],
    )
    .await;
}
