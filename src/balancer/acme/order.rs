//! One order, from the account to the certificate (RFC 8555, section 7).

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    Problem, RetryPolicy,
};

use super::fault::Fault;
use super::shelf::{Account, Lock, Shelf, Unkept};
use super::transport::Transport;
use super::{TLS_ALPN, Wish};

/// How an order is looked at until the authority has done its part: at first
/// after half a second, then ever more seldom, unless it says when.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// What the CA says of an account that it does not have (any more).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Orders a certificate and keeps it. Whoever has the lock does.
///
/// # Errors
/// Why there is none. What was kept before stays.
pub(super) async fn order(
    wish: &Arc<Wish>,
    shelf: &Shelf,
    transport: &Transport,
    _lock: &Lock,
) -> Result<(), Fault> {
    let names = wish.names.iter().cloned().map(Identifier::Dns);
    let names: Vec<Identifier> = names.collect();
    let mut order = begin(wish, shelf, transport, &names).await?;
    prove(wish, shelf, &mut order).await?;
    match order.poll_ready(&POLLS).await {
        Ok(OrderStatus::Ready) => {}
        Ok(_) => return Err(rejected(wish, &mut order, None).await),
        Err(instant_acme::Error::Api(why)) => {
            return Err(rejected(wish, &mut order, Some(why)).await);
        }
        Err(error) => return Err(error.into()),
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLLS).await?;
    let names = wish.names.clone();
    blocking(shelf, move |shelf| shelf.keep(&(key + &chain), &names))
        .await?
        .map_err(|unkept| match unkept {
            Unkept::Io(error) => Fault::unkept(&error),
            Unkept::Unfit(fault) => Fault::unfit(&fault),
            Unkept::OtherNames => Fault::unfit(&"it is for other names"),
        })
}

/// Begins an order. With another account if the authority does not know the
/// one that is kept any more.
async fn begin(
    wish: &Arc<Wish>,
    shelf: &Shelf,
    transport: &Transport,
    names: &[Identifier],
) -> Result<Order, Fault> {
    let order = NewOrder::new(names);
    let known = account(wish, shelf, transport).await?;
    match known.new_order(&order).await {
        Err(instant_acme::Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
            tracing::warn!("the authority does not know the account any more; it gets another one");
            blocking(shelf, |shelf| shelf.set_account(None))
                .await?
                .map_err(|error| Fault::unkept(&error))?;
            let new = account(wish, shelf, transport).await?;
            Ok(new.new_order(&order).await?)
        }
        begun => Ok(begun?),
    }
}

/// The account that is kept, or a new one.
async fn account(
    wish: &Arc<Wish>,
    shelf: &Shelf,
    transport: &Transport,
) -> Result<instant_acme::Account, Fault> {
    let builder = instant_acme::Account::builder_with_http(Box::new(transport.clone()));
    let directory = wish.directory.clone();
    let kept = blocking(shelf, move |shelf| shelf.account(&directory)).await?;
    let contact: Vec<&str> = wish.contact.iter().map(String::as_str).collect();
    if let Some(kept) = kept.filter(|it| it.contact == wish.contact) {
        return Ok(builder.from_credentials(kept.credentials).await?);
    }
    let terms = NewAccount {
        contact: &contact,
        // Whoever sets `acme` agrees to them.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let created = builder.create(&terms, wish.directory.clone(), None).await;
    let (account, credentials) = created?;
    let kept = Account {
        directory: wish.directory.clone(),
        contact: wish.contact.clone(),
        credentials,
    };
    blocking(shelf, move |shelf| shelf.set_account(Some(&kept)))
        .await?
        .map_err(|error| Fault::unkept(&error))?;
    tracing::info!(
        "new account with the authority {}: {}",
        wish.directory,
        account.id()
    );
    Ok(account)
}

/// Has the answers ready and the authority ask for them. Names that it has
/// seen to be ours a short time ago need none.
async fn prove(wish: &Wish, shelf: &Shelf, order: &mut Order) -> Result<(), Fault> {
    let by_tls = wish.challenge == TLS_ALPN;
    let kind = match by_tls {
        true => ChallengeType::TlsAlpn01,
        false => ChallengeType::Http01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            let why = format!("it does not offer {} for {name}", wish.challenge);
            return Err(Fault::refused(&why));
        };
        let asked_for = match by_tls {
            true => name.to_ascii_lowercase(),
            false => challenge.token.clone(),
        };
        let answer = challenge.key_authorization().as_str().to_owned();
        blocking(shelf, move |shelf| shelf.answers().put(&asked_for, &answer))
            .await?
            .map_err(|error| Fault::unkept(&error))?;
        challenge.set_ready().await?;
    }
    Ok(())
}

/// Why the authority has not been convinced, and of what; `why` is what it says
/// of the whole order.
async fn rejected(wish: &Wish, order: &mut Order, why: Option<Problem>) -> Fault {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else {
            break;
        };
        if authorization.refresh().await.is_err() {
            break;
        }
        let name = authorization.identifier().to_string();
        let error = authorization
            .challenges
            .iter()
            .find_map(|it| it.error.as_ref());
        if let Some(problem) = error {
            return Fault::rejected(&name, &wish.challenge, problem);
        }
    }
    match why {
        Some(problem) => Fault::refused(&problem),
        None => Fault::refused(&"the order has become invalid, and it does not say why"),
    }
}

/// Does this with the files, where it holds up nothing else.
pub(super) async fn blocking<T: Send + 'static>(
    shelf: &Shelf,
    work: impl FnOnce(&Shelf) -> T + Send + 'static,
) -> Result<T, Fault> {
    let shelf = shelf.clone();
    let done = tokio::task::spawn_blocking(move || work(&shelf)).await;
    done.map_err(|_gone| Fault::unkept(&std::io::ErrorKind::Interrupted.into()))
}
