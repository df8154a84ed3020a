//! From a fresh socket to the first ReadyForQuery.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::error::DbError;
use super::target::CancelKey;
use super::wire::Wire;

/// Who logs in where.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) database: &'a str,
}

/// Logs in by whatever the server asks for: nothing, clear text, MD5 or
/// SCRAM-SHA-256. Returns the key for cancel requests, if there is one.
pub(super) async fn login(
    wire: &mut Wire,
    who: Identity<'_>,
) -> Result<Option<CancelKey>, DbError> {
    let parameters = [
        ("user", who.user),
        ("database", who.database),
        ("application_name", "bingo"),
    ];
    frontend::startup_message(parameters, &mut wire.outgoing)?;
    wire.send().await?;
    authenticate(wire, who).await?;
    let mut key = None;
    loop {
        match wire.receive().await? {
            Message::BackendKeyData(body) => {
                key = Some(CancelKey {
                    process: body.process_id(),
                    secret: body.secret_key(),
                });
            }
            Message::ReadyForQuery(_) => return Ok(key),
            other => return Err(unexpected(&other)),
        }
    }
}

async fn authenticate(wire: &mut Wire, who: Identity<'_>) -> Result<(), DbError> {
    match wire.receive().await? {
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => {
            frontend::password_message(who.password.as_bytes(), &mut wire.outgoing)?;
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(who.user.as_bytes(), who.password.as_bytes(), body.salt());
            frontend::password_message(hash.as_bytes(), &mut wire.outgoing)?;
        }
        Message::AuthenticationSasl(body) => scram(wire, who, &body).await?,
        other => return Err(unexpected(&other)),
    }
    wire.send().await?;
    match wire.receive().await? {
        Message::AuthenticationOk => Ok(()),
        other => Err(unexpected(&other)),
    }
}

async fn scram(
    wire: &mut Wire,
    who: Identity<'_>,
    offer: &AuthenticationSaslBody,
) -> Result<(), DbError> {
    if !offer
        .mechanisms()
        .any(|mechanism| Ok(mechanism == SCRAM_SHA_256))?
    {
        return Err(DbError::Login("the server offers no SCRAM-SHA-256".into()));
    }
    let mut scram = ScramSha256::new(who.password.as_bytes(), ChannelBinding::unsupported());
    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut wire.outgoing)?;
    wire.send().await?;
    match wire.receive().await? {
        Message::AuthenticationSaslContinue(body) => scram.update(body.data())?,
        other => return Err(unexpected(&other)),
    }
    frontend::sasl_response(scram.message(), &mut wire.outgoing)?;
    wire.send().await?;
    match wire.receive().await? {
        Message::AuthenticationSaslFinal(body) => Ok(scram.finish(body.data())?),
        other => Err(unexpected(&other)),
    }
}

/// The error that a message out of place means.
fn unexpected(message: &Message) -> DbError {
    match message {
        Message::ErrorResponse(body) => DbError::from_response(body),
        Message::AuthenticationGss | Message::AuthenticationSspi => {
            DbError::Login("the server asks for GSSAPI, which this client does not speak".into())
        }
        _ => DbError::Protocol("a message out of place while logging in".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const WHO: Identity<'_> = Identity {
        user: "me",
        password: "secret",
        database: "db",
    };
    const STARTUP_LENGTH: usize = 8 + "user\0me\0database\0db\0application_name\0bingo\0\0".len();

    /// Logs in to a server that sends `first`, reads the answer of `expected`
    /// bytes and sends `rest`.
    async fn exchange(
        first: &[u8],
        expected: usize,
        rest: &[u8],
    ) -> (Result<Option<CancelKey>, DbError>, Vec<u8>) {
        let (ours, mut server) = tokio::io::duplex(4096);
        let mut wire = Wire::new(Box::new(ours));
        let mut answer = vec![0; expected];
        let serve = async {
            server
                .read_exact(&mut [0; STARTUP_LENGTH])
                .await
                .expect("valid");
            server
                .write_all(first)
                .await
                .expect("the other end is there");
            server
                .read_exact(&mut answer)
                .await
                .expect("the other end is there");
            server
                .write_all(rest)
                .await
                .expect("the other end is there");
        };
        let (result, ()) = tokio::join!(login(&mut wire, WHO), serve);
        (result, answer)
    }

    const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07\0\0\0\x09Z\0\0\0\x05I";

    #[tokio::test]
    async fn trust_needs_no_answer() {
        let (result, _) = exchange(OK, 0, b"").await;
        let key = result.expect("valid").expect("valid");
        assert_eq!((key.process, key.secret), (7, 9));
    }

    #[tokio::test]
    async fn clear_text_is_sent_as_it_is() {
        let (result, answer) = exchange(b"R\0\0\0\x08\0\0\0\x03", 12, OK).await;
        assert!(result.is_ok());
        assert_eq!(answer, b"p\0\0\0\x0bsecret\0");
    }

    #[tokio::test]
    async fn md5_answers_the_salt() {
        let (result, answer) = exchange(b"R\0\0\0\x0c\0\0\0\x05\x01\x02\x03\x04", 41, OK).await;
        assert!(result.is_ok());
        assert_eq!(answer[5..8], *b"md5");
    }

    #[tokio::test]
    async fn a_refusal_is_the_servers_error() {
        let refusal = b"E\0\0\0\x12C28P01\0Mnope\0\0";
        let (result, _) = exchange(refusal, 0, b"").await;
        assert!(result.expect_err("refused").has_code("28P01"));
    }

    #[tokio::test]
    async fn sasl_without_scram_is_refused() {
        let offer = b"R\0\0\0\x0d\0\0\0\x0aFOO\0\0";
        let (result, _) = exchange(offer, 0, b"").await;
        assert!(matches!(result, Err(DbError::Login(_))));
    }
}
