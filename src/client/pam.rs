//! Asks PAM whether a user's password is right, under the name of the service
//! that PgBouncer has, `pgbouncer`.
//!
//! What a module does takes as long as it likes, and nothing can stop it. So
//! each check has a thread of its own, which a login waits for until its own
//! deadline; [`MOST_CHECKS`] bounds the threads, also those that nobody waits
//! for any more. They are no tokio tasks: a process must be able to end
//! without them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use nonstick::items::ItemsMut;
use nonstick::{
    AuthnFlags, ConversationAdapter, ErrorCode, PamShared, Transaction, TransactionBuilder,
};
use tokio::sync::{Semaphore, oneshot};

use crate::auth::Plaintext;
use crate::net::Address;

/// The name of the service: PAM reads `/etc/pam.d/pgbouncer`.
const SERVICE: &str = "pgbouncer";

/// Checks at once; more logins wait for their turn. A check that hangs keeps
/// its place until it comes back.
const MOST_CHECKS: usize = 8;

/// The stack of a check, in bytes: what modules get in other programs.
const STACK: usize = 8 * 1024 * 1024;

/// What all questions to PAM share.
#[derive(Debug)]
pub(super) struct Pam {
    turns: Arc<Semaphore>,
}

impl Default for Pam {
    fn default() -> Pam {
        Pam {
            turns: Arc::new(Semaphore::new(MOST_CHECKS)),
        }
    }
}

impl Pam {
    /// Asks whether this is the user's password, and whether the user may log
    /// in now. The password comes back: there is no second copy of it.
    ///
    /// # Errors
    /// It is not, or nobody could tell: why, for the log.
    pub(super) async fn check(
        &self,
        user: &str,
        from: Address,
        password: Plaintext,
    ) -> Result<Plaintext, String> {
        let turn = self.turns.clone().acquire_owned().await;
        let user = user.to_owned();
        let (answer, answered) = oneshot::channel();
        let check = move || {
            let _turn = turn;
            let outcome = ask(&user, from, &password);
            // The client may have left meanwhile.
            answer.send(outcome.map(|()| password)).ok();
        };
        let thread = std::thread::Builder::new().name("pam".to_owned());
        let started = thread.stack_size(STACK).spawn(check);
        started.map_err(|error| format!("could not start a thread for PAM: {error}"))?;
        let answered = answered.await;
        answered.unwrap_or_else(|_| Err("PAM has not answered".to_owned()))
    }
}

/// The texts are PgBouncer's.
fn ask(user: &str, from: Address, password: &Plaintext) -> Result<(), String> {
    if password.as_bytes().contains(&0) {
        return Err("password with a zero byte".to_owned());
    }
    let failed = |call: &str, code: ErrorCode| format!("{call}() failed: {code}");
    let mut pam = TransactionBuilder::new_with_service(SERVICE)
        .username(user)
        .build(Password(password).into_conversation())
        .map_err(|code| failed("pam_start", code))?;
    let host = match from {
        Address::Tcp(address) => address.ip().to_string(),
        Address::Unix { .. } | Address::Gone => "unix".to_owned(),
    };
    pam.items_mut()
        .set_remote_host(Some(host.as_ref()))
        .map_err(|_| format!("pam_set_item(): can't set PAM_RHOST to '{host}'"))?;
    pam.authenticate(AuthnFlags::SILENT)
        .map_err(|code| failed("pam_authenticate", code))?;
    // Expired, or not allowed at this hour.
    pam.account_management(AuthnFlags::SILENT)
        .map_err(|code| failed("pam_acct_mgmt", code))
}

/// Gives the one answer there is. A panic here would end the process.
struct Password<'a>(&'a Plaintext);

impl ConversationAdapter for Password<'_> {
    fn masked_prompt(&self, _: impl AsRef<OsStr>) -> nonstick::Result<OsString> {
        Ok(OsString::from_vec(self.0.as_bytes().to_vec()))
    }

    fn prompt(&self, _: impl AsRef<OsStr>) -> nonstick::Result<OsString> {
        Ok(OsString::new())
    }

    fn error_msg(&self, message: impl AsRef<OsStr>) {
        let message = message.as_ref().to_string_lossy();
        tracing::warn!("pam_conversation(): PAM error: {message}");
    }

    fn info_msg(&self, message: impl AsRef<OsStr>) {
        let message = message.as_ref().to_string_lossy();
        tracing::debug!("pam_conversation(): {message}");
    }
}
