//! What a server sends of which it is not known what it owes.

use super::Surroundings;
use super::answered::{Arrived, MAX_SERVER_FETCH, ServerFault};
use crate::server::{Exchange, ForeignFate};
use crate::wire::frame::HEADER_LEN;
use crate::wire::{Header, Splice, backend};

/// Walks through what has come until it is known what is owed: answers where
/// that was, none at the end of the chunk.
///
/// # Errors
/// The server sent what it cannot.
pub(super) fn foreign_chunk(
    chunk: &[u8],
    mut at: usize,
    server: &mut Exchange,
    around: &mut impl Surroundings,
    out: &mut Splice<'_>,
    arrived: &mut Arrived,
) -> Result<Option<usize>, ServerFault> {
    while let Some(foreign) = &mut server.foreign {
        let pass = server.incoming.min(chunk.len() - at);
        out.pass(at, at + pass);
        server.incoming -= pass;
        at += pass;
        arrived.taken = at;
        let header = match Header::read(&chunk[at..]) {
            None => return Ok(None),
            Some(Err(_)) => return Err(ServerFault(chunk[at])),
            Some(Ok(header)) => header,
        };
        let message = &chunk[at..chunk.len().min(at + header.total())];
        let fault = ServerFault(header.tag);
        match foreign.on_message(header, message) {
            ForeignFate::Wait if header.total() > MAX_SERVER_FETCH => return Err(fault),
            ForeignFate::Wait => return Ok(None),
            ForeignFate::Hold if header.total() != HEADER_LEN => return Err(fault),
            ForeignFate::Hold => at += HEADER_LEN,
            ForeignFate::Known { behind } => {
                put_closes(behind, out);
                server.become_known(message);
                at += header.total();
            }
            ForeignFate::Pass { behind } => {
                put_closes(behind, out);
                if header.tag == backend::PARAMETER_STATUS {
                    let (name, value) = backend::parameter(&message[HEADER_LEN..]).ok_or(fault)?;
                    around.parameter(name, value);
                }
                let idle = message.get(HEADER_LEN) == Some(&b'I');
                arrived.ask |=
                    header.tag == backend::READY_FOR_QUERY && idle && !foreign.has_asked();
                server.incoming = header.total();
            }
        }
        arrived.taken = at;
    }
    Ok(Some(at))
}

fn put_closes(count: usize, out: &mut Splice<'_>) {
    for _ in 0..count {
        out.insert()
            .extend_from_slice(backend::CLOSE_COMPLETE_MESSAGE);
    }
}
