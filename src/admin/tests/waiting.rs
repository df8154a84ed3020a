//! Commands that take time, with servers to wait for.

use std::future::poll_fn;
use std::task::Poll;

use super::super::wait::Wait;
use super::*;
use crate::pool::state::Checkout;
use crate::pool::{ClientState, Grant, Lease, Pool};

/// A scene with a PostgreSQL behind database `one`.
async fn scene() -> Scene {
    scene_before(&Postgres::open().await)
}

fn scene_before(postgres: &Postgres) -> Scene {
    Scene::new(&format!(
        "[databases]\none = host=127.0.0.1 port={} user=ann password=x\ntwo =\n\
         [pgbouncer]\npool_mode = transaction\n",
        postgres.port
    ))
}

impl Scene {
    fn pool(&self) -> Arc<Pool> {
        let database = self.database("one");
        self.bouncer.pool(&database, &self.bouncer.user("ann"))
    }

    /// A server on loan to a client.
    async fn lease(&self) -> (Arc<Client>, Lease) {
        let client = self.client("one", "ann");
        let pool = self.pool();
        let lease = match self.checkout(&client) {
            Checkout::Ready(lease) => lease,
            Checkout::Failing(failure) => panic!("{failure:?}"),
            Checkout::Queued => match granted(&client).await {
                Grant::Server(server) => Lease::granted(server, &pool),
                other => panic!("{other:?}"),
            },
        };
        lease.record.link(client.id, self.bouncer.clock.now());
        client.set_server(lease.record.id);
        client.set_state(ClientState::Active);
        (client, lease)
    }

    /// A client does what it is told when it is doomed.
    fn leaves_when_doomed(&self, client: Arc<Client>, lease: Option<Lease>) {
        let bouncer = self.bouncer.clone();
        tokio::spawn(async move {
            poll_fn(|cx| {
                client.set_waker(cx.waker());
                match client.doomed() {
                    Some(_) => Poll::Ready(()),
                    None => Poll::Pending,
                }
            })
            .await;
            bouncer.clients.remove(&client.key);
            drop(lease);
        });
    }

    fn checkout(&self, client: &Arc<Client>) -> Checkout<Lease> {
        self.pool().checkout(client, 0, self.bouncer.clock.now())
    }

    fn release(&self, lease: Lease) {
        lease.release(self.bouncer.clock.now());
    }
}

async fn granted(client: &Client) -> Grant {
    let granted = poll_fn(|cx| {
        client.set_waker(cx.waker());
        client.take_grant().map_or(Poll::Pending, Poll::Ready)
    });
    timeout(PATIENCE, granted).await.expect("a grant")
}

/// Waits until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    let held = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, held).await.expect("it comes about");
}

/// The console must not have answered yet.
fn assert_silent(psql: &Psql) {
    let mut byte = [0];
    let read = psql.0.try_read(&mut byte);
    let error = read.expect_err("no answer yet");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn pause_is_answered_when_the_servers_are_gone() {
    for command in ["pause", "pause one"] {
        let scene = scene().await;
        let (_client, lease) = scene.lease().await;
        let mut psql = scene.admin().await;
        psql.send(command).await;
        until(|| scene.bouncer.is_paused() || scene.database("one").is_paused()).await;
        let mut other = scene.admin().await;
        assert_eq!(other.ask("show servers").await.column("state"), ["active"]);
        assert_silent(&psql);
        scene.release(lease);
        assert_eq!(psql.answer().await.tag(), "PAUSE");
        assert_eq!(scene.pool().numbers().0.total(), 0);
        assert!(other.ask("show servers").await.rows().is_empty());
    }
}

#[tokio::test]
async fn a_pause_of_another_database_does_not_wait() {
    let scene = scene().await;
    let (_client, _lease) = scene.lease().await;
    let mut psql = scene.admin().await;
    assert_eq!(psql.ask("pause two").await.tag(), "PAUSE");
}

#[tokio::test]
async fn resume_serves_those_who_wait() {
    let scene = scene().await;
    let mut psql = scene.admin().await;
    psql.ask("pause").await;
    let client = scene.client("one", "ann");
    client.set_state(ClientState::Waiting);
    let answer = scene.checkout(&client);
    assert!(matches!(answer, Checkout::Queued));
    assert_eq!(
        psql.ask("show pools").await.column("cl_waiting"),
        ["1", "0"]
    );
    assert_eq!(psql.ask("resume").await.tag(), "RESUME");
    assert!(matches!(granted(&client).await, Grant::Server(_)));
}

#[tokio::test]
async fn resume_ends_the_wait_of_a_pause() {
    let scene = scene().await;
    let (_client, _lease) = scene.lease().await;
    let mut other = scene.admin().await;
    for (pause, resume, error) in [
        (
            "pause",
            "resume",
            "ERROR 08P01 pooler is not paused/suspended",
        ),
        (
            "pause one",
            "resume one",
            "ERROR 08P01 database one is not paused",
        ),
    ] {
        let mut psql = scene.admin().await;
        psql.send(pause).await;
        until(|| scene.bouncer.is_paused() || scene.database("one").is_paused()).await;
        assert_eq!(other.ask(resume).await.tag(), "RESUME");
        assert_eq!(psql.answer().await.errors(), [error]);
    }
}

#[tokio::test]
async fn who_waits_can_leave_and_the_pause_stays() {
    let scene = scene().await;
    let (_client, _lease) = scene.lease().await;
    let mut psql = scene.admin().await;
    psql.send("pause").await;
    until(|| scene.bouncer.is_paused()).await;
    drop(psql);
    until(|| scene.console.visitors.is_empty()).await;
    assert!(scene.bouncer.is_paused());
}

#[tokio::test]
async fn a_cancel_request_undoes_a_pause() {
    let scene = scene().await;
    let (_client, _lease) = scene.lease().await;
    for command in ["pause", "pause one"] {
        let mut psql = scene.admin().await;
        psql.send(command).await;
        let waits = || {
            scene
                .console
                .visitors
                .iter()
                .any(|it| it.waits_since().is_some())
        };
        until(waits).await;
        for entry in &scene.bouncer.consoles {
            entry.value().notify_waiters();
        }
        assert_eq!(
            psql.answer().await.errors(),
            ["ERROR 57014 canceling statement due to user request"]
        );
        assert!(!scene.bouncer.is_paused());
        assert!(!scene.database("one").is_paused());
        assert_eq!(psql.ask("show version").await.tag(), "SHOW");
    }
}

#[tokio::test]
async fn a_cancel_request_to_one_that_does_not_wait_does_nothing() {
    let scene = scene().await;
    let (_client, lease) = scene.lease().await;
    let mut psql = scene.admin().await;
    for entry in &scene.bouncer.consoles {
        entry.value().notify_waiters();
    }
    psql.send("pause").await;
    until(|| scene.bouncer.is_paused()).await;
    scene.release(lease);
    assert_eq!(psql.answer().await.tag(), "PAUSE");
}

#[tokio::test]
async fn what_is_asked_during_a_wait_is_answered_after_it() {
    let scene = scene().await;
    let (_client, lease) = scene.lease().await;
    let mut psql = scene.admin().await;
    psql.send("pause").await;
    psql.send("show version").await;
    until(|| scene.bouncer.is_paused()).await;
    assert_silent(&psql);
    scene.release(lease);
    assert_eq!(psql.answer().await.tag(), "PAUSE");
    assert_eq!(psql.answer().await.texts(), [["PgBouncer 1.25.2"]]);
}

#[tokio::test]
async fn too_much_sent_during_a_wait_ends_the_connection() {
    let scene = scene().await;
    let (_client, _lease) = scene.lease().await;
    let mut psql = scene.admin().await;
    psql.send("pause").await;
    let flood = message(b'Q', b"show version\0").repeat(1000);
    psql.write(&flood).await;
    assert_eq!(psql.answer().await.errors(), ["FATAL 08P01 bad packet"]);
}

#[tokio::test]
async fn reconnect_marks_servers_and_wait_close_waits_for_them() {
    for (reconnect, wait_close) in [
        ("reconnect", "wait_close"),
        ("reconnect one", "wait_close one"),
    ] {
        let scene = scene().await;
        let (_client, lease) = scene.lease().await;
        let mut psql = scene.admin().await;
        assert_eq!(psql.ask(wait_close).await.tag(), "WAIT_CLOSE");
        assert_eq!(psql.ask(reconnect).await.tag(), "RECONNECT");
        assert_eq!(psql.ask("show servers").await.column("close_needed"), ["1"]);
        psql.send(wait_close).await;
        let mut other = scene.admin().await;
        assert_eq!(other.ask("wait_close two").await.tag(), "WAIT_CLOSE");
        assert_silent(&psql);
        scene.release(lease);
        assert_eq!(psql.answer().await.tag(), "WAIT_CLOSE");
        assert!(psql.ask("show servers").await.rows().is_empty());
    }
}

#[tokio::test]
async fn reconnect_leaves_servers_that_come_later() {
    let scene = scene().await;
    let mut psql = scene.admin().await;
    psql.ask("reconnect").await;
    let (_client, lease) = scene.lease().await;
    assert!(!lease.record.is_marked());
}

#[tokio::test]
async fn a_login_begun_before_reconnect_serves_nobody() {
    let postgres = Postgres::shut().await;
    let scene = scene_before(&postgres);
    let client = scene.client("one", "ann");
    let answer = scene.checkout(&client);
    assert!(matches!(answer, Checkout::Queued));
    until(|| postgres.seen.load(Ordering::Relaxed) == 1).await;
    let first = scene.bouncer.next_id();
    scene.bouncer.mark_servers(None);
    postgres.gate.add_permits(2);
    let Grant::Server(server) = granted(&client).await else {
        panic!("a server");
    };
    assert!(server.record.id > first, "of a later login");
    until(|| scene.pool().numbers().0.total() == 1).await;
}

#[tokio::test]
async fn kill_drops_clients_and_servers_and_pauses() {
    let scene = scene().await;
    let (client, lease) = scene.lease().await;
    scene.pool().counters[0].queries.add(5);
    scene.leaves_when_doomed(client.clone(), Some(lease));
    let bystander = scene.client("two", "ann");
    let mut psql = scene.admin().await;
    assert_eq!(psql.ask("kill one").await.tag(), "KILL");
    assert_eq!(
        client.doomed().map(|doom| doom.message),
        Some("database removed")
    );
    assert!(bystander.doomed().is_none());
    assert!(scene.bouncer.servers.is_empty());
    assert!(scene.bouncer.pools().is_empty());
    let shown = psql.ask("show clients").await;
    assert_eq!(shown.column("database"), ["pgbouncer"]);
    assert_eq!(
        psql.ask("show stats").await.column("database"),
        ["pgbouncer"]
    );
    let shown = psql.ask("show databases").await;
    assert_eq!(shown.column("paused"), ["1", "0", "0"]);
    assert_eq!(psql.ask("resume one").await.tag(), "RESUME");
    let (_client, _lease) = scene.lease().await;
}

#[tokio::test]
async fn kill_tells_who_waits_for_a_first_server() {
    let scene = scene().await;
    let mut psql = scene.admin().await;
    psql.ask("pause one").await;
    let client = scene.client("one", "ann");
    let pool = scene.pool();
    pool.checkout(&client, 0, scene.bouncer.clock.now());
    scene.leaves_when_doomed(client.clone(), None);
    assert_eq!(psql.ask("kill one").await.tag(), "KILL");
    let Grant::Failed(failure) = granted(&client).await else {
        panic!("there is no server");
    };
    assert_eq!(failure.message, "database removed");
    // One that comes a moment too late is told too.
    let late = scene.client("one", "ann");
    pool.checkout(&late, 0, scene.bouncer.clock.now());
    assert!(matches!(granted(&late).await, Grant::Failed(_)));
}

#[tokio::test]
async fn kill_all_pauses_every_database() {
    let scene = scene().await;
    let (client, lease) = scene.lease().await;
    scene.leaves_when_doomed(client, Some(lease));
    let mut psql = scene.admin().await;
    assert_eq!(psql.ask("kill").await.tag(), "KILL");
    assert_eq!(
        psql.ask("resume").await.errors(),
        ["ERROR 08P01 pooler is not paused/suspended"]
    );
    for resume in ["resume one", "resume two"] {
        assert_eq!(psql.ask(resume).await.tag(), "RESUME");
    }
}

#[tokio::test]
async fn kill_client_ends_that_client() {
    let scene = scene().await;
    let (client, lease) = scene.lease().await;
    scene.leaves_when_doomed(client.clone(), Some(lease));
    let bystander = scene.client("one", "ann");
    let mut psql = scene.admin().await;
    let answer = psql.ask(&format!("kill_client {}", client.id)).await;
    assert_eq!(answer.tag(), "KILL_CLIENT");
    let message = client.doomed().map(|doom| doom.message);
    assert_eq!(message, Some("admin forced disconnect"));
    assert!(bystander.doomed().is_none());
    let again = psql.ask(&format!("kill_client {}", client.id)).await;
    assert_eq!(again.errors(), ["ERROR 08P01 client not found"]);
}

#[tokio::test]
async fn kill_client_ends_clients_of_the_console_too() {
    let scene = scene().await;
    let mut victim = scene.stats_user().await;
    let id = scene.bouncer.next_id() - 1;
    let mut psql = scene.admin().await;
    let answer = psql.ask(&format!("KILL_CLIENT {id};")).await;
    assert_eq!(answer.tag(), "KILL_CLIENT");
    let last = victim.answer().await;
    assert_eq!(last.errors(), ["FATAL 08P01 admin forced disconnect"]);
    assert!(last.is_ended());
    let own = scene.bouncer.next_id() - 1;
    let answer = psql.ask(&format!("kill_client {own}")).await;
    assert_eq!(answer.errors(), ["FATAL 08P01 admin forced disconnect"]);
}

#[tokio::test]
async fn who_does_not_go_is_not_waited_for_without_end() {
    let scene = scene().await;
    let (client, _lease) = scene.lease().await;
    let gone = |deadline| Wait::Gone {
        client: client.id,
        deadline,
    };
    let killed = |deadline| Wait::Killed {
        pools: scene.bouncer.pools(),
        databases: scene.bouncer.databases(),
        deadline,
    };
    let (past, future) = (scene.console.now(), scene.console.now() + PATIENCE);
    for (wait, expected) in [
        (gone(past), Some(Ok(()))),
        (gone(future), None),
        (killed(past), Some(Ok(()))),
        (killed(future), None),
    ] {
        assert_eq!(wait.progress(&scene.console), expected, "{wait:?}");
    }
}

#[tokio::test]
async fn a_server_is_shown_with_its_client() {
    let scene = scene().await;
    let (client, lease) = scene.lease().await;
    let mut psql = scene.admin().await;
    let servers = psql.ask("show servers").await;
    assert_eq!(servers.column("link"), [format!("{:#x}", client.id)]);
    assert_eq!(servers.column("remote_pid"), [0x1234.to_string()]);
    assert_eq!(servers.column("user"), ["ann"]);
    assert_eq!(servers.column("application_name"), ["app"]);
    let clients = psql.ask("show clients").await;
    assert_eq!(clients.column("link")[0], servers.column("ptr")[0]);
    let pools = psql.ask("show pools").await;
    assert_eq!(pools.column("sv_active"), ["1", "0"]);
    assert_eq!(psql.ask("show sockets").await.column("state").len(), 3);
    scene.release(lease);
    until(|| scene.pool().numbers().0.idle == 1).await;
    assert_eq!(psql.ask("show servers").await.column("state"), ["idle"]);
    assert_eq!(psql.ask("show pools").await.column("sv_idle"), ["1", "0"]);
    let shown = psql.ask("show databases").await;
    assert_eq!(shown.column("current_connections")[0], "1");
}

#[tokio::test]
async fn the_wait_of_the_longest_waiting_is_shown() {
    let scene = scene().await;
    scene.bouncer.set_paused(None, true);
    let pool = scene.pool();
    until(|| scene.bouncer.clock.now().0 > 2_000).await;
    let first = scene.client("one", "ann");
    pool.checkout(&first, 0, crate::stats::Micros::ZERO);
    first.set_state(ClientState::Waiting);
    let mut psql = scene.admin().await;
    let shown = psql.ask("show pools").await;
    let micros: u64 = shown.column("maxwait_us")[0].parse().expect("a number");
    let seconds: u64 = shown.column("maxwait")[0].parse().expect("a number");
    assert!(seconds * 1_000_000 + micros >= 2_000, "{shown:?}");
    assert_eq!(shown.column("cl_waiting")[0], "1");
    assert_eq!(shown.column("cl_active")[0], "0");
}
