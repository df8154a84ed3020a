//! What a server has been sent of one batch, so that it can be sent again.
//!
//! A statement whose result has other columns since it was prepared can be
//! prepared anew behind the client's back if the client has not heard or done
//! anything yet, and asks for the columns in the same batch.

use bytes::BytesMut;

use crate::wire::frame::HEADER_LEN;
use crate::wire::{Header, frontend};

/// The longest batch that is kept, in bytes.
const LONGEST: usize = 16 * 1024;

/// The bytes of a batch. They are the server's, not the client's, because
/// there are fewer servers; the memory is kept for the next batch.
#[derive(Debug, Default)]
pub struct Replay {
    bytes: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Nothing is kept.
    #[default]
    Off,
    /// The batch goes on.
    Open,
    /// Its Sync has been sent.
    Closed,
}

impl Replay {
    /// A batch begins, on a server that owes nothing.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.state = State::Open;
    }

    /// It need not or cannot be sent again.
    pub fn stop(&mut self) {
        self.state = State::Off;
    }

    /// A batch is kept.
    pub fn is_on(&self) -> bool {
        self.state != State::Off
    }

    /// The batch has been closed with a Sync.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Notes the next message of the client: whether it belongs to the batch.
    pub fn see(&mut self, tag: u8) {
        self.state = match (self.state, tag) {
            (State::Open, frontend::SYNC) => State::Closed,
            (State::Open, frontend::PARSE | frontend::BIND | frontend::DESCRIBE) => State::Open,
            (State::Open, frontend::EXECUTE | frontend::CLOSE | frontend::FLUSH) => State::Open,
            _ => State::Off,
        };
    }

    /// Keeps what has been sent.
    pub fn keep(&mut self, sent: &[u8]) {
        match self.bytes.len() + sent.len() <= LONGEST {
            true => self.bytes.extend_from_slice(sent),
            false => self.stop(),
        }
    }

    /// The batch is to be sent behind these bytes, and with another name for
    /// one of its statements.
    pub fn again(&mut self, mut front: BytesMut, old: &[u8], new: &[u8]) {
        let mut rest = self.bytes.as_slice();
        while let Some(Ok(header)) = Header::read(rest) {
            let (message, behind) = rest.split_at(header.total().min(rest.len()));
            let body = &message[HEADER_LEN..];
            match (
                header.tag,
                frontend::bind_names(body),
                frontend::target(body),
            ) {
                (frontend::BIND, Some(names), _) if names.statement == old => {
                    frontend::put_bind_front(&mut front, names.portal, new, names.rest.len());
                    front.extend_from_slice(names.rest);
                }
                (frontend::DESCRIBE, _, Some((b'S', name))) if name == old => {
                    frontend::put_statement_target(&mut front, frontend::DESCRIBE, new);
                }
                _ => front.extend_from_slice(message),
            }
            rest = behind;
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(&front);
        self.stop();
    }

    /// What is to be sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tags: &[u8]) -> State {
        let mut replay = Replay::default();
        replay.begin();
        tags.iter().for_each(|&tag| replay.see(tag));
        replay.state
    }

    #[test]
    fn a_batch_ends_with_its_sync() {
        assert_eq!(seen(b"BDEH"), State::Open);
        assert_eq!(seen(b"BDES"), State::Closed);
        assert_eq!(seen(b"BDESB"), State::Off);
        assert_eq!(seen(b"BDQ"), State::Off);
    }

    #[test]
    fn a_batch_that_is_too_long_is_not_kept() {
        let mut replay = Replay::default();
        replay.begin();
        replay.keep(&[0; LONGEST]);
        assert!(replay.is_on());
        replay.keep(&[0]);
        assert!(!replay.is_on());
    }

    #[test]
    fn a_batch_is_sent_again_with_another_name() {
        let batch = |name: u8| {
            let head = [b'B', 0, 0, 0, 10, b'p', 0, name, 0, 7, 7, b'E', 0, 0, 0, 4];
            [&head[..], &[b'D', 0, 0, 0, 7, b'S', name, 0]].concat()
        };
        let mut replay = Replay::default();
        replay.begin();
        replay.keep(&batch(b'a'));
        replay.again(BytesMut::from(&b"first"[..]), b"a", b"b");
        assert_eq!(replay.bytes(), [b"first", &batch(b'b')[..]].concat());
    }
}
