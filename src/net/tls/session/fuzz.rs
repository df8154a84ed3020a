//! The bytes of a connection, in any pieces and without a socket.

use std::sync::LazyLock;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::super::samples::{self, KEY, VERSION_3};
use super::super::server_side::ServerSide;
use super::*;
use crate::config::{Pgbouncer, SslMode};
use crate::wire::fuzz::{Input, pieces};

/// How both ends of a connection speak.
static CONFIGS: LazyLock<(Offer, ServerTarget)> = LazyLock::new(|| {
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ciphers for them")
        .with_no_client_auth()
        .with_single_cert(vec![samples::der(VERSION_3)], key)
        .expect("a pair");
    config.send_tls13_tickets = 0;
    let settings = Pgbouncer {
        server_tls_sslmode: SslMode::Require,
        ..Pgbouncer::default()
    };
    let side = ServerSide::load(&settings, &mut Vec::new()).expect("no files are needed");
    let target = side.target("one.example", false).expect("a host");
    let offer = Offer {
        config: Arc::new(config),
        end_point: None,
    };
    (offer, target)
});

pub(in crate::net::tls) fn own_offer() -> Offer {
    CONFIGS.0.clone()
}

fn server() -> Session {
    Session::accept(own_offer()).expect("a session")
}

fn client() -> Session {
    let mut client = Session::connect(CONFIGS.1.clone()).expect("a session");
    client.begin(&[]).expect("a hello");
    client
}

/// Reads a piece as [`Session::poll_open`] does, but not from a socket. Answers
/// what was opened.
fn hear(session: &mut Session, piece: &[u8], room: usize) -> Result<Vec<u8>, Error> {
    let mut records = std::mem::take(&mut session.partial);
    records.extend_from_slice(piece);
    let mut buf = vec![0; room];
    let opened = session.open(&mut records, &mut buf)?;
    buf.truncate(opened);
    assert!(session.plain.is_empty() || opened == room);
    buf.extend_from_slice(&session.plain);
    session.plain.clear();
    Ok(buf)
}

/// What came of a stream: the words of its failure, or whether the handshake
/// goes on, and whether the end has come.
fn outcome(chunks: &mut dyn Iterator<Item = &[u8]>) -> Result<(bool, bool), String> {
    let mut session = server();
    for chunk in chunks {
        let opened = hear(&mut session, chunk, 1).map_err(|error| error.to_string())?;
        assert!(opened.is_empty(), "nobody has the keys");
        if session.ended {
            break;
        }
    }
    Ok((session.common().is_handshaking(), session.ended))
}

/// Any bytes instead of a client's: it comes to the same in any pieces.
pub(in crate::net::tls) fn stream(mut input: Input<'_>) {
    let seed = input.byte();
    let says = input.rest();
    let at_once = outcome(&mut std::iter::once(says));
    assert_eq!(at_once, outcome(&mut pieces(says, seed)));
    assert!(at_once.is_err() || at_once.is_ok_and(|(handshaking, _)| handshaking));
}

/// Two that speak true, on a line that may change one byte: in any pieces they
/// come to terms and hear what the other has said, or hear nothing.
pub(in crate::net::tls) fn honest(mut input: Input<'_>) {
    let (seed, room) = (input.byte(), usize::from(input.byte()));
    let flip = input.byte();
    let mut at = usize::from(u16::from_be_bytes([input.byte(), input.byte()]));
    let is_true = flip == 0;
    let says = input.rest();
    let (mut client, mut server) = (client(), server());
    let (mut heard, mut said) = (Vec::new(), false);
    loop {
        let mut moved = false;
        for to_server in [true, false] {
            let (from, to) = match to_server {
                true => (&mut client, &mut server),
                false => (&mut server, &mut client),
            };
            let mut line = std::mem::take(&mut from.unsent).to_vec();
            if let Some(byte) = line.get_mut(at) {
                *byte ^= flip;
            }
            at = at.wrapping_sub(line.len());
            moved |= !line.is_empty();
            for piece in pieces(&line, seed) {
                match hear(to, piece, room) {
                    Ok(opened) if to_server => heard.extend(opened),
                    Ok(opened) => assert!(opened.is_empty()),
                    Err(error) => {
                        assert!(!is_true, "{error}");
                        return assert!(says.starts_with(&heard));
                    }
                }
            }
        }
        let agreed = !client.common().is_handshaking() && client.unsent.is_empty();
        if agreed && !said && client.cipher().is_some() {
            said = true;
            moved = true;
            for piece in says.chunks(CHUNK_LEN) {
                RECORDS.with_borrow_mut(|records| {
                    let sealed = client.seal(Some(piece), records).expect("it has the keys");
                    client.unsent.extend_from_slice(&records[..sealed]);
                });
            }
            client.queue_close();
        }
        if !moved {
            break;
        }
    }
    assert!(says.starts_with(&heard));
    if is_true {
        assert!(said && server.ended && heard == says);
        assert!(server.cipher() == client.cipher() && server.cipher().is_some());
    }
}
