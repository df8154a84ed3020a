//! Acts steps on one pooler, by several clients, and writes down the answers.

use super::script::{self, Group, Step};
use super::transcript::{Masks, Scribe};
use super::{Program, Transcript};
use crate::harness::backend::Message;
use crate::harness::becomes;
use crate::harness::frontend;
use crate::harness::pooler::Pooler;
use crate::harness::postgres::password_of;
use crate::harness::wire::{Login, Wire, cancel};
use std::collections::BTreeMap;

/// A pooler and the clients that the steps so far have left with it.
pub(super) struct Stage {
    pooler: Pooler<'static>,
    clients: BTreeMap<String, Client>,
    masks: Masks,
    said: Transcript,
}

struct Client {
    wire: Wire,
    login: Login,
    scribe: Scribe,
}

/// What a step that goes wrong was about.
struct Doing<'a>(&'a Program, &'a str);

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the step \"{}\" of {}", self.1, self.0.path.display());
        }
    }
}

impl Stage {
    pub(super) fn start(group: &Group, program: &Program) -> Self {
        let _doing = Doing(program, &group.name);
        let pooler = group.ini.clone().program(&program.path).start();
        let folder = pooler.folder.path().display().to_string();
        let release = pooler.console("SHOW VERSION").rows[0].text("version");
        let masks = Masks(vec![
            (folder, "FOLDER"),
            (pooler.address().port().to_string(), "PORT"),
            (pooler.server_port().to_string(), "SERVER_PORT"),
            (pooler.database.name.clone(), "DBNAME"),
            (
                release.trim_start_matches("PgBouncer ").to_owned(),
                "VERSION",
            ),
        ]);
        Self {
            pooler,
            clients: BTreeMap::new(),
            masks,
            said: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, step: &Step) -> Transcript {
        for act in &step.acts {
            self.act(act);
        }
        // Their order means nothing.
        for run in self.said.chunk_by_mut(|a, b| {
            a.contains("> ParameterStatus ") && b.contains("> ParameterStatus ")
        }) {
            run.sort();
        }
        std::mem::take(&mut self.said)
    }

    /// `WHO VERB WHAT`. Who is a client's name, `ini`, `pool` or `server`.
    fn act(&mut self, act: &str) {
        let act = &act.replace("DBNAME", &self.pooler.database.name);
        let (who, rest) = act.split_once(' ').unwrap_or((act, ""));
        let (verb, what) = rest.split_once(' ').unwrap_or((rest, ""));
        match (who, verb) {
            ("ini", _) => self.change_ini(rest),
            // Waits for a sum in SHOW POOLS: `pool until cl_waiting=1`.
            ("pool", "until") => self.wait_pools(what),
            // A superuser's own session: `server run SQL`.
            ("server", "run") => self.pooler.database.session().run(what),
            // Waits until this user's query runs: `server until alice`.
            ("server", "until") => self.wait_running(what),
            (_, "login") => {
                self.knock(who, what);
                self.read(who);
            }
            // The same without reading an answer.
            (_, "knock") => self.knock(who, what),
            (_, "startup") => {
                self.startup(who, what);
                self.read(who);
            }
            (_, "connect") => self.connect(who, Login::new("", "")),
            (_, "ssl") => self.ask_byte(who, frontend::ssl_request()),
            (_, "gss") => self.ask_byte(who, frontend::gssenc_request()),
            (_, "ask") => {
                self.send(who, frontend::query(what));
                self.read(who);
            }
            // As `ask`, where only the columns matter.
            (_, "columns") => {
                self.send(who, frontend::query(what));
                let from = self.said.len();
                self.read(who);
                let rows = self.said.split_off(from).into_iter();
                self.said
                    .extend(rows.filter(|line| !line.contains("> DataRow")));
            }
            (_, "send") => self.send(who, frontend::query(what)),
            // A message by its letter, with escapes in its body.
            (_, "message") => {
                let (letter, body) = what.split_once(' ').unwrap_or((what, ""));
                let bytes = frontend::message(letter.as_bytes()[0], &unescape(body));
                self.send(who, bytes);
            }
            (_, "bytes") => self.send(who, unescape(what)),
            (_, "extended") => {
                self.send(who, frontend::extended(what, &[]));
                self.read(who);
            }
            // Up to ReadyForQuery or what ends the connection.
            (_, "read") => self.read(who),
            // A notice that comes by itself.
            (_, "notice") => self.read_one(who),
            (_, "leave") => {
                self.send(who, frontend::terminate());
                self.read(who);
            }
            (_, "drop") => drop(self.clients.remove(who)),
            (_, "cancel") => cancel(self.pooler.address(), &self.client(who).wire.key.clone()),
            _ => panic!("no such act: {act}"),
        }
    }

    fn client(&mut self, who: &str) -> &mut Client {
        let client = self.clients.get_mut(who);
        client.unwrap_or_else(|| panic!("{who} has not connected"))
    }

    fn connect(&mut self, who: &str, login: Login) {
        let wire = Wire::connect(self.pooler.address());
        let client = Client {
            wire,
            login,
            scribe: Scribe::default(),
        };
        self.clients.insert(who.to_owned(), client);
    }

    /// `USER[:PASSWORD]@DATABASE[; NAME=VALUE]...`, the password being the
    /// right one where none is given.
    fn knock(&mut self, who: &str, what: &str) {
        let mut parts = what.split("; ");
        let (user, database) = parts
            .next()
            .and_then(|first| first.split_once('@'))
            .expect("USER@DATABASE");
        let (user, password) = match user.split_once(':') {
            Some((user, password)) => (user, password.to_owned()),
            None => (user, password_of(user)),
        };
        let mut login = Login::new(user, database).password(&password);
        for parameter in parts {
            let (name, value) = parameter.split_once('=').expect("NAME=VALUE");
            login = login.parameter(name, value);
        }
        let packet = login.packet();
        self.connect(who, login);
        self.send(who, packet);
    }

    /// `MAJOR.MINOR[; NAME=VALUE]...`: just these parameters.
    fn startup(&mut self, who: &str, what: &str) {
        let mut parts = what.split("; ");
        let version = parts.next().and_then(|first| first.split_once('.'));
        let (major, minor) = version.expect("MAJOR.MINOR");
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let parameters: Vec<(&str, &str)> = parts
            .map(|parameter| parameter.split_once('=').expect("NAME=VALUE"))
            .collect();
        let user = parameters.iter().find(|(name, _)| *name == "user");
        let user = user.map_or("", |(_, value)| value);
        let login = Login::new(user, "").password(&password_of(user));
        self.connect(who, login);
        let version = number(major) << 16 | number(minor);
        self.send(who, frontend::startup_version(version, &parameters));
    }

    fn send(&mut self, who: &str, bytes: impl AsRef<[u8]>) {
        self.client(who).wire.send(bytes);
    }

    fn ask_byte(&mut self, who: &str, bytes: Vec<u8>) {
        self.send(who, bytes);
        let line = match self.client(who).wire.recv_byte() {
            Ok(byte) => format!("{who}> byte {}", char::from(byte)),
            Err(lost) => format!("{who}> {lost:?}"),
        };
        self.said.push(line);
    }

    fn read(&mut self, who: &str) {
        let mut scram = None;
        loop {
            let masks = &self.masks;
            let client = self.clients.get_mut(who);
            let Client {
                wire,
                login,
                scribe,
            } = client.unwrap_or_else(|| panic!("{who} has not connected"));
            let message = wire.recv_any();
            self.said
                .push(format!("{who}> {}", scribe.heard(&message, masks)));
            match message {
                Ok(Message::ReadyForQuery(_) | Message::CopyInResponse) => return,
                Ok(Message::Authentication(kind, body)) => {
                    wire.authenticate(login, kind, &body, &mut scram);
                }
                Ok(Message::BackendKeyData(key)) => wire.key = key,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    fn read_one(&mut self, who: &str) {
        let masks = &self.masks;
        let client = self.clients.get_mut(who).expect("it has connected");
        let line = client.scribe.heard(&client.wire.recv_any(), masks);
        self.said.push(format!("{who}> {line}"));
    }

    fn wait_running(&self, user: &str) {
        becomes("its query runs", true, || {
            let backends = self.pooler.backends();
            backends
                .iter()
                .any(|backend| backend.user == user && backend.state == "active")
        });
    }

    fn wait_pools(&mut self, what: &str) {
        let (column, number) = what.split_once('=').expect("COLUMN=NUMBER");
        let number: i64 = number.parse().expect("a number");
        becomes(what, number, || {
            let table = self.pooler.console("SHOW POOLS");
            let rows = table
                .rows
                .iter()
                .filter(|row| row.text("database") != "pgbouncer");
            rows.map(|row| row.number(column)).sum()
        });
    }

    /// The files change; RELOAD is another act.
    fn change_ini(&mut self, what: &str) {
        self.pooler.ini = script::change(self.pooler.ini.clone(), what);
        self.pooler.write_config();
    }
}

/// `\0`, `\xHH`, `\\`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => match rest.next().expect("an escape") {
                b'0' => bytes.push(0),
                b'x' => {
                    let digits = [rest.next(), rest.next()].map(|digit| digit.expect("two digits"));
                    let digits = std::str::from_utf8(&digits).expect("digits");
                    bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
                }
                other => bytes.push(other),
            },
            byte => bytes.push(byte),
        }
    }
    bytes
}
