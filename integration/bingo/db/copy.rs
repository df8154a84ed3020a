//! Bulk loading.

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::connection::{Connection, State};
use super::error::DbError;

/// How much COPY data goes into one message.
const CHUNK: usize = 64 << 10;

impl Connection {
    /// Runs `COPY ... FROM STDIN`. `fill` appends data to the buffer as long as
    /// it is called and returns false when there is no more.
    pub(crate) async fn copy_in(
        &mut self,
        sql: &str,
        mut fill: impl FnMut(&mut BytesMut) -> bool,
    ) -> Result<u64, DbError> {
        self.state = State::Busy;
        frontend::query(sql, &mut self.wire.outgoing)?;
        self.wire.send().await?;
        match self.next().await? {
            Message::CopyInResponse(_) => {}
            Message::ErrorResponse(body) => {
                let error = DbError::from_response(&body);
                self.finish(&mut |_| Ok(())).await?;
                return Err(error);
            }
            _ => return Err(self.out_of_place()),
        }
        let mut chunk = BytesMut::with_capacity(2 * CHUNK);
        let mut more = true;
        while more {
            while more && chunk.len() < CHUNK {
                more = fill(&mut chunk);
            }
            frontend::CopyData::new(chunk.split())?.write(&mut self.wire.outgoing);
            self.wire.send().await?;
            chunk.reserve(2 * CHUNK);
        }
        frontend::copy_done(&mut self.wire.outgoing);
        self.wire.send().await?;
        self.finish(&mut |_| Ok(())).await
    }
}
