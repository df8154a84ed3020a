//! The commands: one table.

use std::borrow::Cow;

use bytes::BytesMut;

use super::console::Console;
use super::fault::Fault;
use super::grammar::{self, GrammarError, Statement};
use super::visitor::Visitor;
use super::wait::Wait;
use super::{actions, show};
use crate::wire::backend;

/// What a command is given.
pub struct Call<'a> {
    /// The console.
    pub console: &'a Console,
    /// Who asks.
    pub visitor: &'a Visitor,
    /// The whole query.
    pub query: &'a str,
    /// The second word; of SET, the key.
    pub argument: &'a str,
    /// Of SET, the value.
    pub value: &'a str,
    /// Takes what is answered before CommandComplete.
    pub out: &'a mut BytesMut,
}

/// What a command came to.
#[derive(Debug)]
pub enum Outcome {
    /// It is done; its tag.
    Done(Cow<'static, str>),
    /// It is done when this is over; its tag.
    When(&'static str, Wait),
    /// SHOW: rows that clients have to be asked for.
    Tell(show::Telling),
    /// The process ends; nothing is answered.
    Exit,
}

/// Who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Users in `admin_users`.
    Admins,
    /// They and users in `stats_users`.
    Everybody,
}

impl Access {
    /// Refuses those who may not.
    pub fn check(self, visitor: &Visitor) -> Result<(), Fault> {
        match self {
            Access::Everybody => Ok(()),
            Access::Admins if visitor.admin => Ok(()),
            Access::Admins => Err(Fault::NeedsAdmin),
        }
    }
}

/// What a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Argument {
    /// Nothing.
    None,
    /// A database, or nothing for all.
    AnyDatabase,
    /// A database.
    Database,
    /// A client's id.
    Client,
    /// A node of the balancer.
    Node,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An item of SHOW.
    Item,
    /// `key = value`.
    Assignment,
}

impl Argument {
    fn accepts(self, argument: &str) -> bool {
        match self {
            Argument::None => argument.is_empty(),
            Argument::Word(words) => words.iter().any(|it| it.eq_ignore_ascii_case(argument)),
            Argument::Assignment => false,
            Argument::Node => !argument.is_empty(),
            // What these are good for is looked at when they are used.
            Argument::AnyDatabase | Argument::Database | Argument::Client | Argument::Item => true,
        }
    }
}

/// A command.
struct Command {
    name: &'static str,
    argument: Argument,
    access: Access,
    run: fn(&mut Call<'_>) -> Result<Outcome, Fault>,
}

impl Command {
    /// Its lines in SHOW HELP.
    fn help(&self) -> Vec<String> {
        let name = self.name;
        match self.argument {
            Argument::None => vec![name.to_owned()],
            Argument::AnyDatabase => vec![format!("{name} [<db>]")],
            Argument::Database => vec![format!("{name} <db>")],
            Argument::Client => vec![format!("{name} <client_id>")],
            // SHOW HELP is PgBouncer's, which has no balancer.
            Argument::Node => Vec::new(),
            Argument::Word(words) => vec![format!("{name} {}", words.join("|"))],
            Argument::Assignment => vec![format!("{name} key = arg")],
            Argument::Item => {
                let lines = show::help_lines().into_iter();
                lines.map(|items| format!("{name} {items}")).collect()
            }
        }
    }
}

/// Every command, in the order of SHOW HELP.
const COMMANDS: &[Command] = &[
    Command {
        name: "SHOW",
        argument: Argument::Item,
        access: Access::Everybody,
        run: show::show,
    },
    Command {
        name: "SET",
        argument: Argument::Assignment,
        access: Access::Admins,
        run: actions::set,
    },
    Command {
        name: "RELOAD",
        argument: Argument::None,
        access: Access::Admins,
        run: actions::reload,
    },
    Command {
        name: "PAUSE",
        argument: Argument::AnyDatabase,
        access: Access::Admins,
        run: actions::pause,
    },
    Command {
        name: "RESUME",
        argument: Argument::AnyDatabase,
        access: Access::Admins,
        run: actions::resume,
    },
    Command {
        name: "DISABLE",
        argument: Argument::Database,
        access: Access::Admins,
        run: actions::disable,
    },
    Command {
        name: "ENABLE",
        argument: Argument::Database,
        access: Access::Admins,
        run: actions::enable,
    },
    Command {
        name: "RECONNECT",
        argument: Argument::AnyDatabase,
        access: Access::Admins,
        run: actions::reconnect,
    },
    Command {
        name: "KILL",
        argument: Argument::AnyDatabase,
        access: Access::Admins,
        run: actions::kill,
    },
    Command {
        name: "KILL_CLIENT",
        argument: Argument::Client,
        access: Access::Admins,
        run: actions::kill_client,
    },
    Command {
        name: "SUSPEND",
        argument: Argument::None,
        access: Access::Admins,
        run: actions::suspend,
    },
    Command {
        name: "SHUTDOWN",
        argument: Argument::None,
        access: Access::Admins,
        run: actions::shut_down,
    },
    Command {
        name: "SHUTDOWN",
        argument: Argument::Word(&["WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"]),
        access: Access::Admins,
        run: actions::shut_down_waiting,
    },
    Command {
        name: "WAIT_CLOSE",
        argument: Argument::AnyDatabase,
        access: Access::Admins,
        run: actions::wait_close,
    },
    Command {
        name: "READY NODE",
        argument: Argument::Node,
        access: Access::Admins,
        run: actions::ready_node,
    },
    Command {
        name: "DRAIN NODE",
        argument: Argument::Node,
        access: Access::Admins,
        run: actions::drain_node,
    },
    Command {
        name: "MAINT NODE",
        argument: Argument::Node,
        access: Access::Admins,
        run: actions::maint_node,
    },
];

/// Carries out a query as far as it can be done at once. Rows and notices go
/// to `out`.
///
/// # Errors
/// Why it is refused; nothing was changed then.
pub fn execute(
    console: &Console,
    visitor: &Visitor,
    query: &str,
    out: &mut BytesMut,
) -> Result<Outcome, Fault> {
    let (name, argument, value) = match grammar::parse(query) {
        Ok(Statement::Command { name, argument }) => (name, argument, None),
        Ok(Statement::Set { key, value }) => ("SET".into(), key, Some(value)),
        Err(GrammarError::BadArguments) => return Err(Fault::BadArguments),
        Err(GrammarError::NoStatement) => return Err(Fault::Invalid(query.into())),
    };
    if value.is_some() && show::is_for_drivers(&argument) {
        backend::put_notice(out, "SET ignored", "");
        return Ok(Outcome::Done("SET".into()));
    }
    let command = find(&name, &argument, value.is_some());
    let command = command.ok_or_else(|| Fault::Invalid(query.into()))?;
    command.access.check(visitor)?;
    if command.argument != Argument::Item {
        log_command(command, &argument);
    }
    (command.run)(&mut Call {
        console,
        visitor,
        query,
        argument: &argument,
        value: value.as_deref().unwrap_or_default(),
        out,
    })
}

/// The text of SHOW HELP: every line after a line break and a tab.
pub fn help() -> String {
    let lines = COMMANDS.iter().flat_map(Command::help);
    lines.map(|line| format!("\n\t{line}")).collect()
}

/// The row of the table for a query; none if nothing has that form.
fn find(name: &str, argument: &str, is_set: bool) -> Option<&'static Command> {
    // For drivers that know no SHOW.
    let name = match name.eq_ignore_ascii_case("SELECT") {
        true => "SHOW",
        false => name,
    };
    let fits = |command: &&Command| match command.argument {
        Argument::Assignment => is_set,
        other => !is_set && other.accepts(argument),
    };
    let mut named = COMMANDS
        .iter()
        .filter(|command| command.name.eq_ignore_ascii_case(name));
    named.find(fits)
}

fn log_command(command: &Command, argument: &str) {
    let name = command.name;
    match command.argument {
        Argument::Word(_) => tracing::info!("{name} {argument} command issued"),
        _ if argument.is_empty() => tracing::info!("{name} command issued"),
        _ => tracing::info!("{name} '{argument}' command issued"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The user documentation.
    const PAGE: &str = include_str!("../../docs/console.md");

    impl Command {
        /// What the page calls it.
        fn forms(&self) -> Vec<String> {
            let name = self.name;
            match self.argument {
                Argument::None => vec![name.to_owned()],
                Argument::AnyDatabase => vec![format!("{name} [db]")],
                Argument::Database => vec![format!("{name} db")],
                Argument::Client => vec![format!("{name} id")],
                Argument::Node => vec![format!("{name} name")],
                Argument::Word(words) => words.iter().map(|it| format!("{name} {it}")).collect(),
                Argument::Assignment => vec![format!("{name} name = value")],
                Argument::Item => show::names().map(|it| format!("{name} {it}")).collect(),
            }
        }
    }

    #[test]
    fn the_page_in_docs_has_a_row_for_each_command_and_for_nothing_else() {
        let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `"));
        let commands = rows.flat_map(|row| {
            let (first, _) = row.split_once(" | ").expect("another cell");
            // Between the marks, and between those of the next one.
            first.split('`').step_by(2).map(str::to_owned)
        });
        let documented: BTreeSet<String> = commands.filter(|it| !it.is_empty()).collect();
        let there_are: BTreeSet<String> = COMMANDS.iter().flat_map(Command::forms).collect();
        assert_eq!(documented, there_are);
    }
}
