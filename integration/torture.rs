//! Clients of many kinds crowd on few servers, with errors, cancels, faults
//! and abrupt exits between them. Every statement carries a token of its own,
//! so a byte that reaches the wrong client is seen.
//!
//! A round is a pure function of its seed: `PGWEIR_SEED` repeats one,
//! `PGWEIR_TORTURE_SECONDS` says how long new ones are tried.

use crate::harness::backend::Message;
use crate::harness::fault::{Fault, FaultProxy};
use crate::harness::frontend::{
    bind, close_statement, copy_data, copy_done, copy_fail, describe_statement, execute, extended,
    parse, query, run_prepared, sync, terminate,
};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::Postgres;
use crate::harness::wire::{Lost, Reply, Wire, cancel};
use crate::harness::{Random, becomes, reference_is_pgweir};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long one round lasts.
const ROUND: Duration = Duration::from_secs(5);

/// Accounts between which money moves; their sum stays.
const ACCOUNTS: usize = 10;
const MONEY: i64 = 1000;

/// What a client may do next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Deed {
    Simple,
    Failing,
    Batch,
    Pipeline,
    Prepared,
    CopyIn,
    CopyOut,
    Transfer,
    Sum,
    Cancelled,
    LateCancel,
    Setting,
    Leave,
    Abandon,
    AbandonAnswer,
}

const DEEDS: [Deed; 15] = [
    Deed::Simple,
    Deed::Failing,
    Deed::Batch,
    Deed::Pipeline,
    Deed::Prepared,
    Deed::CopyIn,
    Deed::CopyOut,
    Deed::Transfer,
    Deed::Sum,
    Deed::Cancelled,
    Deed::LateCancel,
    Deed::Setting,
    Deed::Leave,
    Deed::Abandon,
    Deed::AbandonAnswer,
];

/// What a seed decides.
#[derive(Debug)]
struct Plan {
    clients: usize,
    pool_size: usize,
    statements: usize,
    session: bool,
    /// Each deed as often as its weight.
    deeds: Vec<Deed>,
    /// Servers answer in pieces of this many bytes.
    slice: usize,
    /// Servers break from time to time.
    breaks: bool,
}

impl Plan {
    /// Small pools and few kinds of deeds most of the time: sharing is where
    /// the faults are, and each subset of deeds leads elsewhere.
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut deeds = Vec::new();
        while deeds.is_empty() {
            for deed in DEEDS {
                if random.chance(50) {
                    deeds.extend(vec![deed; 1 + random.below(5)]);
                }
            }
        }
        let session = random.chance(15);
        let pool_size = 1 + random.below(3);
        Self {
            clients: if session {
                pool_size
            } else {
                2 + random.below(8)
            },
            pool_size,
            statements: [1, 2, 3, 200][random.below(4)],
            session,
            deeds,
            // PgBouncer takes no login in pieces.
            slice: [0, 0, 7, 100, 1000][random.below(5)] * usize::from(reference_is_pgweir()),
            breaks: random.chance(30),
        }
    }
}

/// One client, and what it knows of its own past.
struct Client<'a> {
    pooler: &'a Pooler<'a>,
    wire: Option<Wire>,
    random: Random,
    who: usize,
    count: usize,
    /// Names of statements, each with the text it returns.
    prepared: Vec<(String, String)>,
    timezone: &'static str,
    /// Connections may be lost without a fault of the pooler.
    breaks: bool,
}

/// The deed is done, or the connection was lost where it may be lost.
type Done = Result<(), Lost>;

impl Client<'_> {
    /// Unique, and of the kind that a foreign byte would show in.
    fn token(&mut self) -> String {
        self.count += 1;
        format!("<{}.{}>", self.who, self.count)
    }

    fn wire(&mut self) -> &mut Wire {
        if self.wire.is_none() {
            self.prepared.clear();
            self.timezone = "UTC";
            let login = self.pooler.login("alice").parameter("TimeZone", "UTC");
            self.wire = loop {
                match login.at(self.pooler.address()) {
                    Ok(wire) => break Some(wire),
                    Err(error) => assert!(self.breaks, "{error:?}"),
                }
            };
        }
        self.wire.as_mut().expect("it is there now")
    }

    /// Sends in one write, or cut at random places.
    fn send(&mut self, bytes: &[u8]) {
        let cuts = self.random.below(4);
        let mut cuts: Vec<usize> = (0..cuts).map(|_| self.random.below(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        for cut in cuts.windows(2) {
            self.wire().send(&bytes[cut[0]..cut[1]]);
        }
    }

    fn ask(&mut self, bytes: &[u8]) -> Result<Reply, Lost> {
        self.send(bytes);
        self.wire().try_reply()
    }

    fn act(&mut self, deed: Deed) -> Done {
        match deed {
            Deed::Simple => self.simple(),
            Deed::Failing => self.failing(),
            Deed::Batch => self.batch(),
            Deed::Pipeline => self.pipeline(),
            Deed::Prepared => self.prepared(),
            Deed::CopyIn => self.copy_in(),
            Deed::CopyOut => self.copy_out(),
            Deed::Transfer => self.transfer(),
            Deed::Sum => self.sum(),
            Deed::Cancelled => self.cancelled(),
            Deed::LateCancel => self.late_cancel(),
            Deed::Setting => self.setting(),
            Deed::Leave => self.leave(),
            Deed::Abandon => self.abandon(),
            Deed::AbandonAnswer => self.abandon_answer(),
        }
    }

    fn simple(&mut self) -> Done {
        let token = self.token();
        let times = [1, 1, 10, 3000][self.random.below(4)];
        let reply = self.ask(&query(&format!("select repeat('{token}', {times})")))?;
        assert_eq!(reply.succeeded().value(), token.repeat(times));
        Ok(())
    }

    fn failing(&mut self) -> Done {
        let token = self.token();
        let sql = format!("do $$ begin raise exception '{token}'; end $$");
        let message = if self.random.chance(50) {
            query(&sql)
        } else {
            extended(&sql, &[])
        };
        let reply = self.ask(&message)?;
        assert_eq!(
            reply.error().map(|error| error.text()),
            Some(token.as_str())
        );
        Ok(())
    }

    /// Several statements before one Sync, perhaps with an error among them.
    fn batch(&mut self) -> Done {
        let size = 1 + self.random.below(8);
        let bad = self.random.below(2 * size);
        let tokens: Vec<String> = (0..size).map(|_| self.token()).collect();
        let mut bytes = Vec::new();
        for (number, token) in tokens.iter().enumerate() {
            let sql = if number == bad {
                "select 1 / ($1::text)::int"
            } else {
                "select $1::text"
            };
            let value = if number == bad { "0" } else { token };
            bytes.extend([parse("", sql), bind("", "", &[value]), execute("", 0)].concat());
        }
        let reply = self.ask(&[bytes, sync()].concat())?;
        let found: Vec<String> = reply.rows().into_iter().flatten().flatten().collect();
        assert_eq!(found, tokens[..bad.min(size)]);
        assert_eq!(
            reply.error().map(|error| error.code()),
            (bad < size).then_some("22012")
        );
        Ok(())
    }

    /// Many Syncs and simple queries without waiting for an answer.
    fn pipeline(&mut self) -> Done {
        let size = 1 + self.random.below(60);
        let mut expected = Vec::new();
        let mut bytes = Vec::new();
        for _ in 0..size {
            let token = self.token();
            let kind = self.random.below(4);
            bytes.extend(match kind {
                0 => query(&format!("select '{token}'")),
                1 => extended(&format!("select '{token}' || (1 / 0)::text"), &[]),
                _ => extended("select $1::text", &[&token]),
            });
            expected.push((kind != 1).then_some(token));
        }
        self.send(&bytes);
        for token in expected {
            let reply = self.wire().try_reply()?;
            match token {
                Some(token) => assert_eq!(reply.succeeded().value(), token),
                None => assert_eq!(reply.code(), "22012"),
            }
        }
        Ok(())
    }

    /// Makes, runs, describes and closes named statements in one batch.
    fn prepared(&mut self) -> Done {
        // A new connection knows no statement.
        self.wire();
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..1 + self.random.below(6) {
            let pick = self.random.below(self.prepared.len().max(1));
            // PgBouncer answers Close too early.
            let closes = reference_is_pgweir();
            match self.random.below(8) {
                0 if closes && !self.prepared.is_empty() => {
                    let (name, _) = self.prepared.swap_remove(pick);
                    bytes.extend(close_statement(&name));
                }
                1 if !self.prepared.is_empty() => {
                    bytes.extend(describe_statement(&self.prepared[pick].0))
                }
                2..=5 if !self.prepared.is_empty() => {
                    let token = self.token();
                    let (name, text) = &self.prepared[pick];
                    bytes.extend(run_prepared(name, &[&token]));
                    expected.push(format!("{token}{text}"));
                }
                _ => {
                    let name = format!("s{}", self.token());
                    // Some texts are everybody's, some are this client's.
                    let text = if self.random.chance(50) {
                        format!("{}", self.random.below(5))
                    } else {
                        self.token()
                    };
                    bytes.extend(parse(&name, &format!("select $1::text || '{text}'")));
                    self.prepared.push((name, text));
                }
            }
        }
        let reply = self.ask(&[bytes, sync()].concat())?;
        let found: Vec<String> = reply
            .succeeded()
            .rows()
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        assert_eq!(found, expected);
        Ok(())
    }

    fn copy_in(&mut self) -> Done {
        let token = self.token();
        self.send(&query("copy copied from stdin"));
        match self.wire().try_recv()? {
            Message::ErrorResponse(error) if error.severity() == "FATAL" => {
                return Err(Lost::Closed);
            }
            message => assert_eq!(message, Message::CopyInResponse),
        }
        let rows = self.random.below(200);
        let data: String = (0..rows).map(|_| format!("{token}\n")).collect();
        let fails = self.random.chance(30);
        let end = if fails {
            copy_fail(&token)
        } else {
            copy_done()
        };
        let reply = self.ask(&[copy_data(&data), end].concat())?;
        match fails {
            true => assert!(
                reply
                    .error()
                    .is_some_and(|error| error.text().contains(&token))
            ),
            false => assert_eq!(reply.succeeded().tags(), [format!("COPY {rows}")]),
        }
        let reply = self.ask(&query(&format!(
            "select count(*) from copied where x = '{token}'"
        )))?;
        assert_eq!(
            reply.succeeded().value(),
            if fails { 0 } else { rows }.to_string()
        );
        Ok(())
    }

    fn copy_out(&mut self) -> Done {
        let token = self.token();
        let rows = self.random.below(500);
        let sql = format!("copy (select '{token}' from generate_series(1, {rows})) to stdout");
        let reply = self.ask(&query(&sql))?;
        let line = format!("{token}\n").into_bytes();
        let data = reply
            .succeeded()
            .messages
            .iter()
            .filter_map(|message| match message {
                Message::CopyData(data) => Some(data),
                _ => None,
            });
        assert_eq!(data.inspect(|data| assert_eq!(**data, line)).count(), rows);
        Ok(())
    }

    /// Moves money, and commits, rolls back, fails or vanishes.
    fn transfer(&mut self) -> Done {
        let (from, to) = (self.random.below(ACCOUNTS), self.random.below(ACCOUNTS));
        let amount = self.random.below(50);
        // In one order, so that transfers cannot wait for each other.
        let mut changes = [(from, format!("- {amount}")), (to, format!("+ {amount}"))];
        changes.sort();
        let steps = changes.map(|(id, change)| {
            query(&format!(
                "update accounts set money = money {change} where id = {id}"
            ))
        });
        assert_eq!(self.ask(&query("begin"))?.succeeded().status, 'T');
        assert_eq!(self.ask(&steps[0])?.succeeded().tags(), ["UPDATE 1"]);
        match self.random.below(5) {
            0 => {
                self.vanish();
                return Ok(());
            }
            1 => assert_eq!(self.ask(&query("select 1/0"))?.status, 'E'),
            _ => assert_eq!(self.ask(&steps[1])?.succeeded().tags(), ["UPDATE 1"]),
        }
        let end = if self.random.chance(70) {
            "commit"
        } else {
            "rollback"
        };
        assert_eq!(self.ask(&query(end))?.succeeded().status, 'I');
        Ok(())
    }

    fn sum(&mut self) -> Done {
        let reply = self.ask(&query("select sum(money) from accounts"))?;
        let expected = MONEY * i64::try_from(ACCOUNTS).expect("few");
        assert_eq!(reply.succeeded().value(), expected.to_string());
        Ok(())
    }

    /// Asks for a cancel of a short query, somewhere about its end.
    fn cancelled(&mut self) -> Done {
        let token = self.token();
        let time = 0.001 * (self.random.below(20) as f64);
        self.send(&query(&format!("select '{token}' from pg_sleep({time})")));
        let key = self.wire().key.clone();
        std::thread::sleep(Duration::from_micros(self.random.next() % 20_000));
        cancel(self.pooler.address(), &key);
        let reply = self.wire().try_reply()?;
        match reply.error() {
            None => assert_eq!(reply.value(), token),
            Some(error) => assert_eq!(error.code(), "57014"),
        }
        Ok(())
    }

    /// Asks for a cancel while it asks for nothing else.
    fn late_cancel(&mut self) -> Done {
        let key = self.wire().key.clone();
        cancel(self.pooler.address(), &key);
        self.simple()
    }

    /// A parameter that follows the client.
    fn setting(&mut self) -> Done {
        let reply = self.ask(&query("show timezone"))?;
        assert_eq!(reply.succeeded().value(), self.timezone);
        self.timezone = ["UTC", "Asia/Tokyo", "Europe/Paris", "America/Lima"][self.random.below(4)];
        let sql = format!("set timezone = '{}'", self.timezone);
        self.ask(&query(&sql))?.succeeded();
        Ok(())
    }

    fn leave(&mut self) -> Done {
        self.wire();
        self.end();
        Ok(())
    }

    /// Terminate, and nothing more. Where servers are broken, its own may have
    /// been, just before that: then it is told.
    fn end(&mut self) {
        let Some(mut wire) = self.wire.take() else {
            return;
        };
        wire.send(terminate());
        match wire.try_recv() {
            Err(Lost::Closed) => {}
            Ok(Message::ErrorResponse(told)) if self.breaks && told.severity() == "FATAL" => {
                wire.expect_closed();
            }
            other => panic!("the connection has to end, not {other:?}"),
        }
    }

    /// Vanishes with a request sent in part, or whole and unanswered.
    fn abandon(&mut self) -> Done {
        let token = self.token();
        let batch = [
            query(&format!("begin; select '{token}'")),
            parse(&token, "select $1::text"),
            run_prepared(&token, &[&token]),
            sync(),
            query(&format!("select '{token}' from pg_sleep(0.02)")),
            query("copy copied from stdin"),
            copy_data(&format!("{token}\n")),
        ];
        let batch = batch.concat();
        let end = self.random.below(batch.len() + 1);
        self.wire().send(&batch[..end]);
        self.vanish();
        Ok(())
    }

    /// Vanishes with an answer read in part.
    fn abandon_answer(&mut self) -> Done {
        let token = self.token();
        let sql = format!("select '{token}' from generate_series(1, 20000)");
        self.wire().send(query(&sql));
        for _ in 0..self.random.below(3000) {
            if self.wire().recv_byte().is_err() {
                break;
            }
        }
        self.vanish();
        Ok(())
    }

    fn vanish(&mut self) {
        let wire = self.wire.take().expect("a connection is used");
        if self.random.chance(50) {
            wire.reset();
        }
    }

    /// One deed after another until the time is over.
    fn live(&mut self, deeds: &[Deed], end: Instant) {
        while Instant::now() < end {
            let deed = deeds[self.random.below(deeds.len())];
            match self.act(deed) {
                Ok(()) => {}
                Err(Lost::Closed) if self.breaks => self.wire = None,
                Err(lost) => panic!("{lost:?} in {deed:?} of client {}", self.who),
            }
        }
        self.end();
    }
}

/// Breaks servers until the time is over.
fn break_servers(pooler: &Pooler<'_>, proxy: &FaultProxy, seed: u64, end: Instant) {
    let mut random = Random::new(seed ^ 0xbad);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100 + random.next() % 400));
        if random.chance(50) {
            proxy.reset_all();
        } else {
            let sql = format!(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = '{}' and usename = 'alice'",
                pooler.database.name
            );
            pooler.database.session().run(&sql);
        }
    }
}

/// One round; panics where an invariant does not hold.
fn round(seed: u64) {
    let plan = Plan::new(seed);
    let proxy = FaultProxy::start(Postgres::shared().address());
    proxy.spoil(
        Fault::default(),
        Fault {
            slice: plan.slice,
            ..Fault::default()
        },
    );
    let ini = if plan.session {
        Ini::session()
    } else {
        Ini::transaction()
    };
    let pooler = ini
        .set("default_pool_size", plan.pool_size)
        .set("max_prepared_statements", plan.statements)
        .set("server_check_delay", 0)
        .set("server_login_retry", "0.1")
        .server(proxy.address())
        .start();
    pooler.database.session().run(&format!(
        "create table copied (x text); create table accounts (id int primary key, money int);
         insert into accounts select generate_series(0, {}), {MONEY};
         grant all on copied, accounts to public",
        ACCOUNTS - 1
    ));
    let end = Instant::now() + ROUND;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let living: Vec<_> = (0..plan.clients)
            .map(|who| {
                let (pooler, plan) = (&pooler, &plan);
                let random = Random::new(seed.wrapping_add(who as u64 * 7919 + 1));
                scope.spawn(move || {
                    let (wire, prepared, breaks) = (None, Vec::new(), plan.breaks);
                    let mut client = Client {
                        pooler,
                        wire,
                        random,
                        who,
                        count: 0,
                        prepared,
                        timezone: "UTC",
                        breaks,
                    };
                    client.live(&plan.deeds, end);
                })
            })
            .collect();
        if plan.breaks {
            scope.spawn(|| break_servers(&pooler, &proxy, seed, end));
        }
        let counting = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(pooler.backends().len());
            }
            most
        });
        let ends: Vec<_> = living.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        let most = counting.join().expect("it only counts");
        ends.into_iter()
            .for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // Connections that the proxy or an admin broke are not the pooler's.
        if reference_is_pgweir() && !plan.breaks {
            assert!(
                most <= plan.pool_size,
                "{most} servers in a pool of {}",
                plan.pool_size
            );
        }
    });
    becomes("no client is left", 0, || {
        pooler.pool("cl_active") + pooler.pool("cl_waiting")
    });
    becomes("no server is linked", 0, || pooler.pool("sv_active"));
    becomes("no backend works for nobody", Vec::new(), || {
        let mut backends = pooler.backends();
        backends.retain(|backend| backend.state != "idle");
        backends
    });
    let money = pooler
        .database
        .session()
        .value("select sum(money) from accounts");
    assert_eq!(
        money,
        (MONEY * i64::try_from(ACCOUNTS).expect("few")).to_string()
    );
    pooler.assert_serves();
    let log = pooler.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn crowded_clients_never_see_each_others_bytes() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|value| value.parse().expect("a number"))
    };
    let seconds = number("PGWEIR_TORTURE_SECONDS").unwrap_or(30);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let repeated = number("PGWEIR_SEED");
    let first = repeated.unwrap_or(now.as_secs() % 1_000_000 * 1000);
    let end = Instant::now() + Duration::from_secs(seconds);
    for seed in first.. {
        // Past the capture: a seed is wanted most where the run does not end.
        writeln!(
            std::io::stderr(),
            "torture: PGWEIR_SEED={seed} {:?}",
            Plan::new(seed)
        )
        .ok();
        round(seed);
        if repeated.is_some() || Instant::now() + ROUND > end {
            break;
        }
    }
}
