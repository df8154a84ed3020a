//! Both ends of a connection, without a PostgreSQL.

use super::*;
use crate::config::{Pgbouncer, SslMode};
use crate::net::Stream;
use crate::net::tls::samples::{self, KEY, VERSION_3};
use crate::net::tls::server_side::ServerSide;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// How both ends of a connection speak.
fn configs(version: &'static rustls::SupportedProtocolVersion) -> (Offer, ServerTarget) {
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("ciphers for it")
        .with_no_client_auth()
        .with_single_cert(vec![samples::der(VERSION_3)], key)
        .expect("a pair");
    config.send_tls13_tickets = 0;
    let settings = Pgbouncer {
        server_tls_sslmode: SslMode::Require,
        ..Pgbouncer::default()
    };
    let side = ServerSide::load(&settings, &mut Vec::new()).expect("no files are needed");
    let offer = Offer {
        config: Arc::new(config),
        end_point: end_point(&samples::der(VERSION_3)).map(Arc::from),
    };
    (offer, side.target("one.example", false).expect("a host"))
}

/// Both ends of a connection that has shaken hands: (server, client).
async fn pair(version: &'static rustls::SupportedProtocolVersion) -> (Stream, Stream) {
    let (one, other) = UnixStream::pair().expect("a socket pair");
    let (mut server, mut client) = (Stream::from(one), Stream::from(other));
    let (offer, target) = configs(version);
    let (accepted, connected) =
        tokio::join!(server.accept_tls(offer, &[]), client.connect_tls(target));
    accepted.expect("the client is taken");
    connected.expect("the server is taken");
    (server, client)
}

#[tokio::test]
async fn both_ends_know_the_servers_certificate() {
    for version in [&TLS12, &TLS13] {
        let (server, client) = pair(version).await;
        assert!(server.end_point().is_some());
        assert_eq!(server.end_point(), client.end_point());
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

async fn read_exactly(stream: &mut Stream, len: usize, step: usize) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), vec![0; step]);
    while all.len() < len {
        let read = stream.read(&mut buf).await.expect("bytes");
        assert!(read > 0, "the end after {} of {len}", all.len());
        all.extend_from_slice(&buf[..read]);
    }
    all
}

#[tokio::test]
async fn bytes_arrive_as_they_were_sent_both_ways() {
    for version in [&TLS12, &TLS13] {
        let (mut server, mut client) = pair(version).await;
        for len in [1, 100, 16 * 1024, 16 * 1024 + 1, CHUNK_LEN + 1, 1_000_000] {
            let sent = bytes(len);
            let (wrote, read) = tokio::join!(
                server.write_all(&sent),
                read_exactly(&mut client, len, CHUNK_LEN)
            );
            wrote.expect("sent");
            assert!(read == sent, "{len} bytes to the client");
            let (wrote, read) = tokio::join!(
                client.write_all(&sent),
                read_exactly(&mut server, len, 1000)
            );
            wrote.expect("sent");
            assert!(read == sent, "{len} bytes to the server");
        }
    }
}

#[tokio::test]
async fn what_was_opened_is_readable_without_the_socket() {
    let (mut server, mut client) = pair(&TLS13).await;
    client.write_all(b"abcdef").await.expect("sent");
    let mut two = [0; 2];
    assert_eq!(server.read(&mut two).await.expect("two bytes"), 2);
    assert!(!server.is_quiet());
    drop(client);
    assert_eq!(read_exactly(&mut server, 4, 1).await, b"cdef");
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_kept_and_counted() {
    let (mut server, mut client) = pair(&TLS13).await;
    let sent = bytes(4 << 20);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut taken = 0;
    while let Poll::Ready(more) = server.poll_write(&mut cx, &sent[taken..]) {
        taken += more.expect("sent");
    }
    assert!(taken > 0 && taken < sent.len() && !server.is_drained());
    let (wrote, read) = tokio::join!(
        server.write_all(&sent[taken..]),
        read_exactly(&mut client, sent.len(), CHUNK_LEN)
    );
    wrote.expect("sent");
    assert!(read == sent && server.is_drained());
}

#[tokio::test]
async fn an_idle_session_holds_no_buffers() {
    let (mut server, mut client) = pair(&TLS13).await;
    client.write_all(&bytes(100_000)).await.expect("sent");
    read_exactly(&mut server, 100_000, 1000).await;
    assert!(server.is_quiet() && server.is_drained());
    let session = server.tls.as_ref().expect("TLS");
    let held = session.plain.capacity() + session.unsent.capacity() + session.partial.capacity();
    assert_eq!(held, 0);
}

#[tokio::test]
async fn the_end_is_read_with_and_without_a_notice_of_it() {
    for polite in [true, false] {
        let (mut server, mut client) = pair(&TLS13).await;
        client.write_all(b"last").await.expect("sent");
        if polite {
            client.write_end();
        }
        drop(client);
        assert_eq!(read_exactly(&mut server, 4, 10).await, b"last");
        assert_eq!(server.read(&mut [0; 10]).await.expect("the end"), 0);
        assert_eq!(server.read(&mut [0; 10]).await.expect("the end again"), 0);
        assert!(!server.is_quiet());
    }
}

#[tokio::test]
async fn a_record_that_was_tampered_with_is_an_error() {
    let (one, mut other) = UnixStream::pair().expect("a socket pair");
    let (offer, target) = configs(&TLS13);
    let mut server = Stream::from(one);
    let mut client = Session::connect(target).expect("a session");
    client.begin(&[]).expect("a hello");
    other.write_all(&client.unsent).await.expect("sent");
    other
        .write_all(b"\x17\x03\x03\0\x20in the clear, in the middle of it")
        .await
        .expect("sent");
    let error = server
        .accept_tls(offer, &[])
        .await
        .expect_err("no such record");
    assert!(matches!(error, HandshakeError::Refused(_)), "{error}");
}

#[tokio::test]
async fn plain_bytes_in_the_place_of_a_hello_fail_the_handshake() {
    let (one, _other) = UnixStream::pair().expect("a socket pair");
    let (offer, _) = configs(&TLS13);
    let mut server = Stream::from(one);
    let startup = b"\0\0\0\x08\0\x03\0\0";
    assert!(server.accept_tls(offer, startup).await.is_err());
}

#[tokio::test]
async fn nonsense_behind_the_front_of_a_hello_fails_the_handshake() {
    let (one, mut other) = UnixStream::pair().expect("a socket pair");
    let (config, _) = configs(&TLS13);
    let mut server = Stream::from(one);
    let front = b"\x16\x03\x01\0\x03n\0\x03";
    other
        .write_all(&[front, &b"\n\0\0\x06\x01"[..]].concat())
        .await
        .expect("sent");
    let error = server.accept_tls(config, &[]).await.expect_err("nonsense");
    assert!(matches!(error, HandshakeError::Refused(_)), "{error}");
    server.shutdown().await.expect("an end");
    drop(server);
    let mut alert = Vec::new();
    other.read_to_end(&mut alert).await.expect("an alert");
    assert_eq!(alert.first(), Some(&0x15));
}

#[tokio::test]
async fn a_handshake_may_come_byte_by_byte_and_its_beginning_before_it() {
    let (one, mut other) = UnixStream::pair().expect("a socket pair");
    let (offer, target) = configs(&TLS13);
    let mut server = Stream::from(one);
    let mut client = Session::connect(target).expect("a session");
    client.begin(&[]).expect("a hello");
    let hello = client.unsent.clone();
    let (first, rest) = hello.split_at(10);
    let slowly = async {
        for byte in rest {
            other.write_all(&[*byte]).await.expect("sent");
            tokio::task::yield_now().await;
        }
        drop(other);
    };
    let (accepted, ()) = tokio::join!(server.accept_tls(offer, first), slowly);
    let error = accepted.expect_err("the client has gone");
    assert!(matches!(error, HandshakeError::Io(_)), "{error}");
}

#[tokio::test]
async fn a_session_moves_with_its_socket() {
    let (server, mut client) = pair(&TLS13).await;
    let mut server = server.rehome().expect("the same reactor");
    client.write_all(b"moved").await.expect("sent");
    assert_eq!(read_exactly(&mut server, 5, 10).await, b"moved");
}

#[test]
fn plain_connections_carry_a_pointer() {
    let socket = size_of::<Socket>();
    assert_eq!(size_of::<Stream>(), socket + size_of::<usize>());
}
