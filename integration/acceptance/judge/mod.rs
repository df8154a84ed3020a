//! From numbers to verdicts, without doing anything.

mod lists;
mod loss;
mod origin;
mod share;
mod steady;
mod summary;

pub(crate) use lists::{Customer, Listed, Movie, Session, in_order};
pub(crate) use loss::is_unavoidable;
pub(crate) use origin::Origin;
pub(crate) use share::shares;
pub(crate) use steady::lowest_rate;
pub(crate) use summary::Summary;
