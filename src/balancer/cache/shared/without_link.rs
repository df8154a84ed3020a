//! In the place of `link` where the program is built without Redis. Settings
//! that ask for it are refused before.

use super::Fault;
use super::plan::Plan;

/// There is none.
#[derive(Debug, Clone)]
pub(super) struct Connection;

impl Connection {
    pub(super) async fn open(_: &Plan) -> Result<Connection, Fault> {
        Err(absent())
    }

    pub(super) async fn look(&self, _: &str, _: usize) -> Result<(i64, Vec<u8>), Fault> {
        Err(absent())
    }

    pub(super) async fn lease(&self, _: &str, _: u64) -> Result<bool, Fault> {
        Err(absent())
    }

    pub(super) async fn put(&self, _: &str, _: &[u8], _: u64) -> Result<(), Fault> {
        Err(absent())
    }

    pub(super) async fn remove(&self, _: &str) -> Result<(), Fault> {
        Err(absent())
    }
}

fn absent() -> Fault {
    Fault {
        code: None,
        text: "built without `shared-cache`".to_owned(),
    }
}
