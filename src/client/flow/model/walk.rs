//! Every sequence of messages up to a length, with every cache, with every
//! error: what the client hears, and what the next client gets.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::oracle::Direct;
use super::pooler::{Left, Pool, Wrong};
use super::random::Random;
use super::script::{LETTERS, Letter, Luck};
use super::world::{CACHES, Cache, Tables, World};

/// Messages of the longest sequences, unless `PGWEIR_MODEL_LENGTH` says more.
const LENGTH: usize = 5;

/// More steps than any sequence takes: what is not at rest then never is.
const ENDLESS: usize = 100_000;

/// What one walk is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) cache: Cache,
    pub(super) tables: Tables,
}

/// All settings.
pub(super) fn settings() -> Vec<Setting> {
    let tables = [Tables::Read, Tables::Copied, Tables::Gone];
    let caches = CACHES.iter();
    caches
        .flat_map(|&cache| tables.map(|tables| Setting { cache, tables }))
        .collect()
}

/// A walk through all sequences of one setting.
pub(super) struct Walk {
    world: World,
    setting: Setting,
    length: usize,
    seed: u64,
    /// Runs made.
    pub(super) runs: usize,
}

impl Walk {
    pub(super) fn new(setting: Setting, length: usize, seed: u64) -> Walk {
        Walk {
            world: World::new(setting.cache, setting.tables),
            setting,
            length,
            seed,
            runs: 0,
        }
    }

    /// Walks through all sequences that begin with this message.
    pub(super) fn begin_with(&mut self, letter: Letter) -> Result<(), Wrong> {
        let root = self.world.direct();
        self.follow(&root, letter)
    }

    fn follow(&mut self, node: &Direct, letter: Letter) -> Result<(), Wrong> {
        self.visit(node.and(letter, Luck::Good))?;
        if node.may_fail(letter) && self.setting.tables != Tables::Gone {
            // What fails later needs a message behind it.
            let last = node.letters.len() + 1 == self.length;
            let mishaps = letter.mishaps().iter();
            for &luck in mishaps.filter(|luck| !last || **luck == Luck::Fails) {
                self.visit(node.and(letter, luck))?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, node: Direct) -> Result<(), Wrong> {
        self.check(&node)?;
        let length = match self.setting.tables {
            Tables::Gone => self.length - 1,
            _ => self.length,
        };
        if node.letters.len() >= length || node.is_over() {
            return Ok(());
        }
        // Where nothing is COPY, copy data never means anything: the longest
        // sequences are spared it.
        let last = node.letters.len() + 1 == self.length;
        let spared = last && self.setting.tables != Tables::Copied;
        let letters = match spared && self.length > 1 {
            true if node.has_copy_data() => &[],
            true => &LETTERS[..LETTERS.len() - 3],
            false => &LETTERS[..],
        };
        letters
            .iter()
            .try_for_each(|&next| self.follow(&node, next))
    }

    /// Short sequences are tried more often: there is more in how they come.
    fn check(&mut self, node: &Direct) -> Result<(), Wrong> {
        let times = match node.letters.len() {
            0..=3 => 4,
            _ => 1,
        };
        (0..times).try_for_each(|_| self.check_once(node))
    }

    /// The client stays until nothing happens any more, or goes before.
    fn check_once(&mut self, node: &Direct) -> Result<(), Wrong> {
        self.runs += 1;
        let seed = self.seed.wrapping_add(self.runs as u64);
        let mut random = Random::new(seed);
        let steps = match random.chance(4) {
            true => random.below(3 * node.letters.len() + 1),
            false => ENDLESS,
        };
        let result = self.run(node, &mut random, steps);
        result.map_err(|wrong| {
            let Setting { cache, tables } = self.setting;
            format!(
                "{:?}, {cache:?}, {tables:?}, seed {seed}, {steps} steps: {wrong}\n  says {}\n  direct {}",
                node.letters,
                node.says.escape_ascii(),
                node.heard.escape_ascii(),
            )
        })
    }

    fn run(&mut self, node: &Direct, random: &mut Random, steps: usize) -> Result<(), Wrong> {
        let mut pool = Pool {
            around: self.world.around.clone(),
            idle: vec![self.world.server()],
        };
        let mut client = [self.world.client(node.says.clone())];
        pool.run(&mut client, random, steps)?;
        let [client] = client;
        node.judge(&client, steps == ENDLESS)?;
        match pool.leave(client)? {
            Left::Closed => return Ok(()),
            Left::Nothing => {}
            Left::Settled(server) => pool.idle.push(*server),
        }
        // That it is clean has been seen already: mostly that will do.
        match random.chance(6) {
            true => self.next_client(pool, random),
            false => Ok(()),
        }
    }

    /// The next client of the server hears its own answers.
    fn next_client(&self, mut pool: Pool, random: &mut Random) -> Result<(), Wrong> {
        let (says, hears) = match random.chance(2) {
            true => &self.world.long_test,
            false => &self.world.short_test,
        };
        let mut next = [self.world.client(says.clone())];
        pool.run(&mut next, random, ENDLESS)?;
        let [next] = next;
        if next.heard != *hears || next.fault.is_some() || next.server.is_some() {
            return Err(format!("the next client: {next:?}"));
        }
        Ok(())
    }
}

/// Walks through everything on all processors; how many runs that took.
fn walk_all(length: usize) -> Result<usize, Wrong> {
    let settings = settings();
    let (turn, runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<(), Wrong> {
        loop {
            let job = turn.fetch_add(1, Ordering::Relaxed);
            let Some(setting) = settings.get(job / LETTERS.len()) else {
                return Ok(());
            };
            let seed = (job as u64) << 32;
            let mut walk = Walk::new(*setting, length, seed);
            walk.begin_with(LETTERS[job % LETTERS.len()])?;
            runs.fetch_add(walk.runs, Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a walk does not panic"))
    })?;
    Ok(runs.into_inner())
}

#[test]
fn every_short_sequence_is_answered_as_by_postgres() {
    let length = std::env::var("PGWEIR_MODEL_LENGTH");
    let length = length.map_or(LENGTH, |text| text.parse().expect("a number"));
    match walk_all(length) {
        Ok(runs) => eprintln!("{runs} runs of up to {length} messages"),
        Err(wrong) => panic!("{wrong}"),
    }
}
