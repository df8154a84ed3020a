//! The first words to a client that has logged in.

use std::sync::Arc;

use bytes::BytesMut;
use pgwire::messages::startup::Authentication;

use crate::net::Address;
use crate::pool::{Bouncer, Client, Welcome};
use crate::server::Parameters;
use crate::wire::backend;

/// Bytes of a greeting beside ParameterStatus messages and the proof of SCRAM,
/// unless there is a notice.
const BESIDE_STATUSES: usize = 64;

/// `proof`, AuthenticationOk, ParameterStatus, BackendKeyData, the notice of
/// `login_notify_message` and ReadyForQuery, in one piece.
pub(super) fn greeting(
    proof: &[u8],
    bouncer: &Bouncer,
    welcome: &Welcome,
    own: &Arc<Parameters>,
    client: &Client,
) -> BytesMut {
    let statuses = welcome.statuses(own);
    let mut greeting = BytesMut::with_capacity(proof.len() + statuses.len() + BESIDE_STATUSES);
    greeting.extend_from_slice(proof);
    backend::put(&mut greeting, &Authentication::Ok);
    greeting.extend_from_slice(&statuses);
    backend::put_backend_key(&mut greeting, &client.key, client.key_rest());
    let notice = &bouncer.config().pgbouncer.login_notify_message;
    if !notice.is_empty() {
        backend::put_notice(&mut greeting, notice, "");
    }
    backend::put_ready(&mut greeting);
    greeting
}

/// PgBouncer's `application_name_add_host`: ` - HOST:PORT` behind the name.
pub(super) fn name_with_host(name: &str, client: Address, own: Address) -> String {
    match client {
        Address::Unix { pid } => format!(
            "{name} - unix({}@{}):{}",
            pid.unwrap_or(0),
            rustix::system::uname().nodename().to_string_lossy(),
            own.port()
        ),
        address => format!("{name} - {address}"),
    }
}
