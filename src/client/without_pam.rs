//! In the place of `pam` where the program is built without it.

use crate::auth::Plaintext;
use crate::net::Address;

/// What all questions to PAM share: nothing.
#[derive(Debug, Default)]
pub(super) struct Pam;

impl Pam {
    /// Nobody can be asked. A configuration that wants it is refused before.
    pub(super) async fn check(
        &self,
        _: &str,
        _: Address,
        _: Plaintext,
    ) -> Result<Plaintext, String> {
        Err("PAM authentication is not supported".to_owned())
    }
}
