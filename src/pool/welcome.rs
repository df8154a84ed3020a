//! What clients of a pool are greeted with.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::server::{Parameters, Tracked};
use crate::wire::backend;

/// What the newest server of a pool told at login.
#[derive(Debug)]
pub struct Welcome {
    /// The tracked parameters.
    pub tracked: Arc<Parameters>,
    /// Every ParameterStatus, in order.
    reported: Vec<Reported>,
    /// What was made of them last, and for whom: most clients are alike.
    last: Mutex<Option<(Arc<Parameters>, Bytes)>>,
}

/// A ParameterStatus of a server.
#[derive(Debug)]
struct Reported {
    name: String,
    value: String,
    /// Where it stands among the tracked ones, if it is one.
    index: Option<usize>,
}

impl Welcome {
    /// Of the parameters that a server reported at login, in their order.
    pub fn new(
        reported: Vec<(String, String)>,
        tracked: Arc<Parameters>,
        names: &Tracked,
    ) -> Welcome {
        let reported = reported.into_iter().map(|(name, value)| Reported {
            index: names.index(&name),
            name,
            value,
        });
        Welcome {
            tracked,
            reported: reported.collect(),
            last: Mutex::default(),
        }
    }

    /// Every parameter that was reported, in order.
    pub fn reported(&self) -> Vec<(String, String)> {
        let pair = |it: &Reported| (it.name.clone(), it.value.clone());
        self.reported.iter().map(pair).collect()
    }

    /// The ParameterStatus messages for a client whose tracked parameters are
    /// `own`.
    pub fn statuses(&self, own: &Arc<Parameters>) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, statuses)) = &*last
            && Arc::ptr_eq(known, own)
        {
            return statuses.clone();
        }
        let mut statuses = BytesMut::new();
        for Reported { name, value, index } in &self.reported {
            let own = index.and_then(|index| own.value(index));
            backend::put_parameter_status(&mut statuses, name, own.unwrap_or(value));
        }
        let statuses = statuses.freeze();
        *last = Some((own.clone(), statuses.clone()));
        statuses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_its_own_values_of_what_is_tracked() {
        let names = Tracked::new("");
        let reported = [("server_version", "15"), ("TimeZone", "UTC")];
        let reported = reported.map(|(name, value)| (name.into(), value.into()));
        let welcome = Welcome::new(reported.into(), Arc::default(), &names);
        let index = names.index("TimeZone").expect("always tracked");
        for zone in ["GMT", "GMT", "Asia/Tokyo"] {
            let mut own = Parameters::default();
            own.set(index, zone);
            let statuses = welcome.statuses(&Arc::new(own));
            let mut expected = BytesMut::new();
            backend::put_parameter_status(&mut expected, "server_version", "15");
            backend::put_parameter_status(&mut expected, "TimeZone", zone);
            assert_eq!(statuses, expected);
        }
    }
}
