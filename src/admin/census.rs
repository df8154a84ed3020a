//! All pools in the order SHOW lists them, and who belongs to which.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pool::{Bouncer, CONSOLE, Client, Pool};
use crate::server::Record;

/// The pools at one moment, by database and user.
pub struct Census {
    /// In order.
    pub pools: Vec<Arc<Pool>>,
    /// Their places, by number.
    places: HashMap<u64, usize>,
}

impl Census {
    /// Takes it.
    pub fn new(bouncer: &Bouncer) -> Census {
        let pools = bouncer.pools();
        let numbers = pools.iter().map(|pool| pool.id);
        Census {
            places: numbers.zip(0..).collect(),
            pools,
        }
    }

    /// Which pool serves a client; none if it was just dropped.
    pub fn pool_of_client(&self, client: &Client) -> Option<usize> {
        let settings = client.database.settings.load();
        let user = settings.user.as_ref().unwrap_or(&client.user.name);
        self.find(&client.database.name, user).ok()
    }

    /// Which pool a server belongs to; none if it was just dropped.
    pub fn pool_of_server(&self, server: &Record) -> Option<usize> {
        self.places.get(&server.pool).copied()
    }

    /// How many pools are listed before the console's own.
    pub fn before_console(&self) -> usize {
        self.find(CONSOLE, CONSOLE).unwrap_or_else(|before| before)
    }

    fn find(&self, database: &str, user: &str) -> Result<usize, usize> {
        self.pools.binary_search_by(|pool| {
            let key = (pool.database.name.as_str(), pool.user.name.as_str());
            key.cmp(&(database, user))
        })
    }
}
