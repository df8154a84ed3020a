//! From numbers to verdicts, without doing anything.

mod clocks;
mod flat;
mod ledger;
mod lists;
mod loss;
mod origin;
mod share;
mod steady;
mod summary;

pub(crate) use clocks::Clocks;
pub(crate) use flat::spread;
pub(crate) use ledger::Ledger;
pub(crate) use lists::{Customer, Listed, Movie, Session, in_order};
pub(crate) use loss::{Trouble, is_unavoidable};
pub(crate) use origin::Origin;
pub(crate) use share::shares;
pub(crate) use steady::lowest_rate;
pub(crate) use summary::Summary;
