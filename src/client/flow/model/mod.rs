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
//! - A statement whose Parse was discarded by an earlier batch of a pipeline
//!   is prepared anew for a later batch sent before that could be known,
//!   where PostgreSQL says that there is no such statement.
//! - A Parse or Close in the middle of a COPY ends PostgreSQL's connection;
//!   one that the pooler answers itself does not, as no server sees it.
//! - Describe of a statement whose table is gone is answered with the error
//!   alone when its server had to be given the statement first; PostgreSQL
//!   describes its parameters before.
//! - When Syncs were sent while a COPY was failing and requests behind them, it
//!   is open what the client hears of these; the server does not go to anybody
//!   else.

mod oracle;
mod pipelines;
mod pooler;
mod postgres;
mod random;
mod script;
mod seeded;
mod walk;
mod world;
