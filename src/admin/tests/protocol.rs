//! Welcome, messages and their bounds.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::*;

const EXTENDED: &str = "ERROR 08P01 extended query protocol not supported by admin console";

#[tokio::test]
async fn the_welcome_is_pgbouncers() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = Psql(scene.connect("ad", true));
    let Answer(mut welcome) = psql.answer().await;
    let (tag, key) = welcome.pop().expect("messages");
    assert_eq!((tag, key.len()), (b'K', 8));
    assert!(key[0] < 0x80, "a positive process id");
    let expected: Vec<Message> = [
        (b'R', &b"\0\0\0\0"[..]),
        (b'S', b"server_version\x001.25.2/bouncer\0"),
        (b'S', b"client_encoding\0UTF8\0"),
        (b'S', b"server_encoding\0UTF8\0"),
        (b'S', b"DateStyle\0ISO\0"),
        (b'S', b"TimeZone\0GMT\0"),
        (b'S', b"standard_conforming_strings\0on\0"),
        (b'S', b"is_superuser\0on\0"),
    ]
    .map(|(tag, body)| (tag, body.to_vec()))
    .to_vec();
    assert_eq!(welcome, expected);
}

#[tokio::test]
async fn a_query_may_come_byte_by_byte() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = scene.admin().await;
    for byte in message(b'Q', b"show version;\0") {
        psql.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(psql.answer().await.texts(), [["PgBouncer 1.25.2"]]);
}

#[tokio::test]
async fn queries_sent_at_once_are_answered_one_by_one() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = scene.admin().await;
    let queries = [
        message(b'Q', b"show version\0"),
        message(b'Q', b"nonsense\0"),
        message(b'Q', b"select timezone\0"),
    ];
    psql.write(&queries.concat()).await;
    assert_eq!(psql.answer().await.tag(), "SHOW");
    assert_eq!(
        psql.answer().await.errors(),
        ["ERROR 08P01 invalid command 'nonsense', use SHOW HELP;"]
    );
    assert_eq!(psql.answer().await.texts(), [["GMT"]]);
}

#[tokio::test]
async fn what_is_no_query_ends_the_connection() {
    let scene = Scene::new("[pgbouncer]\n");
    let unsupported =
        |tag: u8| format!("ERROR 08P01 unsupported packet type for admin console: {tag}");
    let bad_packet = "FATAL 08P01 bad packet".to_owned();
    for (tag, expected) in [
        (b'P', vec![EXTENDED.to_owned(), bad_packet.clone()]),
        (b'B', vec![EXTENDED.to_owned(), bad_packet.clone()]),
        (b'E', vec![EXTENDED.to_owned(), bad_packet.clone()]),
        (b'D', vec![unsupported(68), bad_packet.clone()]),
        (b'C', vec![unsupported(67), bad_packet.clone()]),
        (b'S', vec![unsupported(83), bad_packet.clone()]),
        (b'H', vec![unsupported(72), bad_packet.clone()]),
        (b'F', vec![unsupported(70), bad_packet.clone()]),
        (b'd', vec![unsupported(100), bad_packet.clone()]),
        (b'c', vec![unsupported(99), bad_packet.clone()]),
        (b'f', vec![unsupported(102), bad_packet.clone()]),
        (b'p', vec!["FATAL 08P01 unknown pkt".to_owned()]),
        (b'z', vec!["FATAL 08P01 unknown pkt".to_owned()]),
        (b'X', vec![]),
    ] {
        let mut psql = scene.admin().await;
        psql.write(&message(tag, b"")).await;
        let mut errors = psql.answer().await.errors();
        if errors.len() < expected.len() {
            let last = psql.answer().await;
            assert!(last.is_ended(), "{tag}");
            errors.extend(last.errors());
        }
        assert_eq!(errors, expected, "{}", char::from(tag));
    }
}

#[tokio::test]
async fn malformed_queries_end_the_connection() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut long = b"show ".to_vec();
    long.resize(20_000, b'a');
    for (bytes, expected) in [
        (message(b'Q', b""), "FATAL 08P01 incomplete query"),
        (message(b'Q', b"show"), "FATAL 08P01 incomplete query"),
        (message(b'Q', &long), "FATAL 08P01 incomplete pkt"),
        (
            b"Q\0\0\0\x03".to_vec(),
            "FATAL 08P01 bad packet header: '5100000003'",
        ),
        (
            b"Q\xff\xff\xff\xff".to_vec(),
            "FATAL 08P01 bad packet header: '51ffffffff'",
        ),
    ] {
        let mut psql = scene.admin().await;
        psql.write(&bytes).await;
        let answer = psql.answer().await;
        assert_eq!(answer.errors(), [expected]);
        assert!(answer.is_ended());
    }
}

#[tokio::test]
async fn text_behind_a_zero_byte_is_not_read() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = scene.admin().await;
    psql.write(&message(b'Q', b"show version\0; drop\0")).await;
    assert_eq!(psql.answer().await.tag(), "SHOW");
}

#[tokio::test]
async fn a_query_that_is_never_finished_ends_the_connection() {
    let limits = Limits {
        message: Duration::from_millis(50),
        ..GENEROUS
    };
    let scene = Scene::with_limits("[pgbouncer]\n", limits);
    let mut psql = scene.admin().await;
    psql.write(b"Q\0\0\0\x20show").await;
    assert_eq!(psql.answer().await.errors(), ["FATAL 08P01 incomplete pkt"]);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let limits = Limits {
        write: Duration::from_millis(100),
        ..GENEROUS
    };
    let scene = Scene::with_limits("[pgbouncer]\n", limits);
    let mut psql = scene.admin().await;
    let query = message(b'Q', b"show config\0");
    // The console stops reading when it cannot write.
    let ask = async { while psql.0.write_all(&query).await.is_ok() {} };
    timeout(PATIENCE, ask).await.expect("the console hangs up");
    assert!(scene.console.visitors.is_empty());
    assert!(scene.bouncer.consoles.is_empty());
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = scene.admin().await;
    assert_eq!(scene.console.visitors.len(), 1);
    assert_eq!(scene.bouncer.client_sockets.used(), 1);
    psql.write(&message(b'X', b"")).await;
    let mut rest = Vec::new();
    psql.0.read_to_end(&mut rest).await.expect("an orderly end");
    assert_eq!(rest, b"");
    let forgotten = async {
        while scene.bouncer.client_sockets.used() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, forgotten).await.expect("it is forgotten");
    assert!(scene.console.visitors.is_empty());
    assert!(scene.bouncer.consoles.is_empty());
}
