//! The flow, its queue of owed answers and its bookkeeping of statements,
//! against a small model of PostgreSQL.
//!
//! What a client says goes to the model twice: directly, and through the flow
//! of a pooler that lends model servers, in random pieces and orders. The
//! client has to hear the same, nobody may be kept waiting for what the
//! server has said, and a server called settled must be one that any other
//! client could use.
//!
//! The pooler may differ from PostgreSQL in this only (see `oracle`):
//!
//! - Answers may come before the Flush or Sync that asks for them, as they
//!   may from PostgreSQL when its buffer is full.
//! - A statement's name that is taken or unknown ends the connection, with
//!   PgBouncer's words. So does one whose Parse or Close is discarded by an
//!   error that the client cannot know yet.
//! - When an error discards the Parse or Close of a statement, a later batch
//!   of the pipeline, sent before that could be known, finds the statement
//!   prepared, or its name free, where PostgreSQL has an error.
//! - A Parse or Close in the middle of a COPY ends PostgreSQL's connection;
//!   one that the pooler answers itself does not, as no server sees it.
//! - Describe of a statement whose table is gone is answered with the error
//!   alone when its server had to be given the statement first; PostgreSQL
//!   describes its parameters before.
//! - When Syncs were sent while a COPY was failing and requests behind them, it
//!   is open what the client hears of these; the server does not go to anybody
//!   else.
//! - A server may be kept from others until its client leaves, though it is
//!   clean: when Syncs were sent while a COPY was failing, and after Close or
//!   the like until Sync.

pub(crate) mod fuzz;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod pipelines;
mod pooler;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the tests of the flow ask it more")
)]
mod postgres;
mod random;
#[cfg(test)]
mod script;
#[cfg(test)]
mod seeded;
#[cfg(test)]
mod walk;
#[cfg(test)]
mod world;
