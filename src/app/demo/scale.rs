//! How much data the demo works on.

use std::fmt;

use clap::ValueEnum;

/// A size of bingo's data, by the name bingo gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scale {
    /// 5 000 sessions; seconds
    Tiny,
    /// 50 000 sessions; seconds
    Ci,
    /// 150 000 sessions: lists are cut at their limit of 100 000
    Limit,
    /// 5 000 000 sessions, as the application ships; minutes, about 2 GB
    Full,
}

/// Rows of each table. Ids are dense from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    pub customers: u32,
    pub movies: u32,
    pub sessions: u32,
}

impl Scale {
    /// bingo's word for it (`BINGO_SIM_SCALE`).
    pub fn word(self) -> &'static str {
        match self {
            Scale::Tiny => "tiny",
            Scale::Ci => "ci",
            Scale::Limit => "limit",
            Scale::Full => "full",
        }
    }

    /// How many rows bingo seeds.
    pub fn rows(self) -> Rows {
        let (customers, movies, sessions) = match self {
            Scale::Tiny => (500, 29, 5_000),
            Scale::Ci => (5_000, 290, 50_000),
            Scale::Limit => (15_000, 870, 150_000),
            Scale::Full => (500_000, 29_019, 5_000_000),
        };
        Rows {
            customers,
            movies,
            sessions,
        }
    }

    /// Disk needed, in MiB: data and indexes, the write-ahead log, and the
    /// sorts of the index builds.
    pub fn disk(self) -> u64 {
        match self {
            Scale::Tiny | Scale::Ci => 300,
            Scale::Limit => 500,
            Scale::Full => 4_000,
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
