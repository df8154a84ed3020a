//! The places of clients in `max_db_client_connections` and
//! `max_user_client_connections`.

use std::sync::Arc;
use std::time::Duration;

use super::{Login, Refusal};
use crate::pool::{Client, Database, HasBudget, Place, User};

/// PgBouncer's words for `max_db_client_connections`.
const DATABASE_FULL: &str = "client connections exceeded (max_db_client_connections)";

/// PgBouncer's words for `max_user_client_connections`.
const USER_FULL: &str = "client connections exceeded (max_user_client_connections)";

/// How often, and after what pauses, a place is asked for again. Another thread
/// may not have seen yet that its client has left, which the new client may
/// know: it was the same program. In PgBouncer one thread sees all in turn.
const PAUSES: [Duration; 6] = {
    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    [ms(1), ms(2), ms(4), ms(8), ms(16), ms(32)]
};

/// Places in `max_db_client_connections` and `max_user_client_connections`.
#[derive(Debug, Default)]
pub struct Places {
    _database: Option<Place<Database>>,
    _user: Option<Place<User>>,
}

impl Places {
    /// Those of a client that is there already, whatever the limits are now.
    pub(super) fn beyond_limits(client: &Client) -> Places {
        Places {
            _database: Place::take(&client.database, 0),
            _user: Place::take(&client.user, 0),
        }
    }
}

impl Login {
    /// Counts the client, also one that is exempt from limits.
    pub(super) async fn take_places(
        &self,
        database: Option<&Arc<Database>>,
        user: &str,
        exempt: bool,
    ) -> Result<Places, Refusal> {
        let mut places = Places::default();
        if let Some(database) = database {
            self.take_database_place(&mut places, database, exempt)
                .await?;
        }
        self.take_user_place(&mut places, user, exempt).await?;
        Ok(places)
    }

    /// Counts the client in the database, if it is not counted yet.
    pub(super) async fn take_database_place(
        &self,
        places: &mut Places,
        database: &Arc<Database>,
        exempt: bool,
    ) -> Result<(), Refusal> {
        if places._database.is_none() {
            let limit = self.worker.bouncer.max_db_client_connections(database);
            let limit = if exempt { 0 } else { limit };
            let place = take_place(database, limit).await;
            places._database = Some(place.ok_or(DATABASE_FULL)?);
        }
        Ok(())
    }

    /// Counts the user, if it is known and not counted yet.
    pub(super) async fn take_user_place(
        &self,
        places: &mut Places,
        user: &str,
        exempt: bool,
    ) -> Result<(), Refusal> {
        let bouncer = &self.worker.bouncer;
        let counted = places._user.as_ref();
        if counted.is_none_or(|place| place.of().name != user)
            && let Some(user) = bouncer.known_user(user)
        {
            let limit = bouncer.max_user_client_connections(&user);
            let limit = if exempt { 0 } else { limit };
            let place = take_place(&user, limit).await;
            places._user = Some(place.ok_or(USER_FULL)?);
        }
        Ok(())
    }
}

/// A place, unless `limit` (0: none) is reached and stays so.
async fn take_place<T: HasBudget>(of: &Arc<T>, limit: u32) -> Option<Place<T>> {
    for pause in PAUSES {
        if let Some(place) = Place::take(of, limit) {
            return Some(place);
        }
        tokio::time::sleep(pause).await;
    }
    Place::take(of, limit)
}
