//! SHOW: one table of items, and the rows of each.

mod connections;
mod databases;
mod descriptors;
mod front;
mod pools;
mod result;
mod settings;
mod stats;

use super::command::{self, Access, Call, Outcome};
use super::console::Console;
use super::fault::Fault;
use crate::wire::backend;
use descriptors::{FDS, HANDOVER};
pub use descriptors::{Teller, Telling};
use result::{Columns, Rows, Type, columns};

/// What `--version` says: the PgBouncer whose console, settings and messages
/// these are. `SHOW VERSION` says it unless `pgbouncer_version` is set.
pub const VERSION: &str = "PgBouncer 1.25.2";

/// Something that can be shown.
struct Item {
    name: &'static str,
    help: Help,
    access: Access,
    columns: Columns,
    source: Source,
}

/// Where SHOW HELP lists an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Help {
    /// In this line, from 1.
    Line(u8),
    /// Nowhere: it is there because drivers ask for it.
    ForDrivers,
    /// Nowhere: PgBouncer has none.
    None,
}

/// Where the rows come from.
enum Source {
    /// These.
    Rows(fn(&Console, &mut Rows<'_>)),
    /// One row with this one value.
    Value(&'static str),
    /// No rows but the list of commands, in a notice.
    Commands,
    /// Rows that clients have to be asked for.
    Told(Telling),
}

/// Every item, in the order of SHOW HELP.
const ITEMS: &[Item] = &[
    Item {
        name: "HELP",
        help: Help::Line(1),
        access: Access::Everybody,
        columns: &[],
        source: Source::Commands,
    },
    Item {
        name: "CONFIG",
        help: Help::Line(1),
        access: Access::Everybody,
        columns: settings::CONFIG,
        source: Source::Rows(settings::config),
    },
    Item {
        name: "DATABASES",
        help: Help::Line(1),
        access: Access::Everybody,
        columns: databases::DATABASES,
        source: Source::Rows(databases::databases),
    },
    Item {
        name: "POOLS",
        help: Help::Line(1),
        access: Access::Everybody,
        columns: pools::POOLS,
        source: Source::Rows(pools::pools),
    },
    Item {
        name: "CLIENTS",
        help: Help::Line(1),
        access: Access::Everybody,
        columns: connections::CONNECTIONS,
        source: Source::Rows(connections::clients),
    },
    Item {
        name: "SERVERS",
        help: Help::Line(1),
        access: Access::Everybody,
        columns: connections::CONNECTIONS,
        source: Source::Rows(connections::servers),
    },
    Item {
        name: "USERS",
        help: Help::Line(1),
        access: Access::Everybody,
        columns: databases::USERS,
        source: Source::Rows(databases::users),
    },
    Item {
        name: "VERSION",
        help: Help::Line(1),
        access: Access::Everybody,
        columns: &[&columns(Type::Text, ["version"])],
        source: Source::Rows(settings::version),
    },
    Item {
        name: "PEERS",
        help: Help::Line(2),
        access: Access::Everybody,
        columns: databases::PEERS,
        source: Source::Rows(databases::peers),
    },
    Item {
        name: "PEER_POOLS",
        help: Help::Line(2),
        access: Access::Everybody,
        columns: pools::PEER_POOLS,
        source: Source::Rows(pools::peer_pools),
    },
    Item {
        name: "FDS",
        help: Help::Line(3),
        access: Access::Admins,
        columns: FDS,
        source: Source::Told(Telling::Descriptors),
    },
    Item {
        name: "SOCKETS",
        help: Help::Line(3),
        access: Access::Everybody,
        columns: connections::SOCKETS,
        source: Source::Rows(connections::sockets),
    },
    Item {
        name: "ACTIVE_SOCKETS",
        help: Help::Line(3),
        access: Access::Everybody,
        columns: connections::SOCKETS,
        // What a connection holds back is known to its task alone.
        source: Source::Rows(no_rows),
    },
    Item {
        name: "LISTS",
        help: Help::Line(3),
        access: Access::Everybody,
        columns: pools::LISTS,
        source: Source::Rows(pools::lists),
    },
    Item {
        name: "MEM",
        help: Help::Line(3),
        access: Access::Everybody,
        columns: settings::MEM,
        // PgBouncer's are its object caches; there are none here.
        source: Source::Rows(no_rows),
    },
    Item {
        name: "STATE",
        help: Help::Line(3),
        access: Access::Everybody,
        columns: settings::STATE,
        source: Source::Rows(settings::state),
    },
    Item {
        name: "DNS_HOSTS",
        help: Help::Line(4),
        access: Access::Everybody,
        columns: settings::DNS_HOSTS,
        source: Source::Rows(settings::dns_hosts),
    },
    Item {
        name: "DNS_ZONES",
        help: Help::Line(4),
        access: Access::Everybody,
        columns: settings::DNS_ZONES,
        source: Source::Rows(settings::dns_zones),
    },
    Item {
        name: "STATS",
        help: Help::Line(5),
        access: Access::Everybody,
        columns: stats::STATS,
        source: Source::Rows(stats::stats),
    },
    Item {
        name: "STATS_TOTALS",
        help: Help::Line(5),
        access: Access::Everybody,
        columns: stats::STATS_TOTALS,
        source: Source::Rows(stats::stats_totals),
    },
    Item {
        name: "STATS_AVERAGES",
        help: Help::Line(5),
        access: Access::Everybody,
        columns: stats::STATS_AVERAGES,
        source: Source::Rows(stats::stats_averages),
    },
    Item {
        name: "TOTALS",
        help: Help::Line(5),
        access: Access::Everybody,
        columns: stats::TOTALS,
        source: Source::Rows(stats::totals),
    },
    Item {
        name: "HANDOVER",
        help: Help::None,
        access: Access::Admins,
        columns: HANDOVER,
        source: Source::Told(Telling::Handover),
    },
    Item {
        name: "BALANCER",
        help: Help::None,
        access: Access::Admins,
        columns: HANDOVER,
        source: Source::Told(Telling::Balancer),
    },
    Item {
        name: "NODES",
        help: Help::None,
        access: Access::Everybody,
        columns: front::NODES,
        source: Source::Rows(front::nodes),
    },
    Item {
        name: "ROUTES",
        help: Help::None,
        access: Access::Everybody,
        columns: front::ROUTES,
        source: Source::Rows(front::routes),
    },
    Item {
        name: "CACHE",
        help: Help::None,
        access: Access::Everybody,
        columns: front::CACHE,
        source: Source::Rows(front::cache),
    },
    Item {
        name: "client_encoding",
        help: Help::ForDrivers,
        access: Access::Everybody,
        columns: &[&columns(Type::Text, ["client_encoding"])],
        source: Source::Value("UTF-8"),
    },
    Item {
        name: "default_transaction_isolation",
        help: Help::ForDrivers,
        access: Access::Everybody,
        columns: &[&columns(Type::Text, ["default_transaction_isolation"])],
        source: Source::Value("read committed"),
    },
    Item {
        name: "standard_conforming_strings",
        help: Help::ForDrivers,
        access: Access::Everybody,
        columns: &[&columns(Type::Text, ["standard_conforming_strings"])],
        source: Source::Value("on"),
    },
    Item {
        name: "datestyle",
        help: Help::ForDrivers,
        access: Access::Everybody,
        columns: &[&columns(Type::Text, ["datestyle"])],
        source: Source::Value("ISO"),
    },
    Item {
        name: "timezone",
        help: Help::ForDrivers,
        access: Access::Everybody,
        columns: &[&columns(Type::Text, ["timezone"])],
        source: Source::Value("GMT"),
    },
];

/// The command SHOW.
///
/// # Errors
/// There is no such item, or it may not be shown.
pub fn show(call: &mut Call<'_>) -> Result<Outcome, Fault> {
    let item = find(call.argument).ok_or_else(|| Fault::Invalid(call.query.into()))?;
    item.access.check(call.visitor)?;
    match item.source {
        Source::Rows(rows) => rows(call.console, &mut Rows::begin(call.out, item.columns)),
        Source::Value(value) => Rows::begin(call.out, item.columns).put(&[value.into()]),
        Source::Commands => backend::put_notice(call.out, "Console usage", &command::help()),
        Source::Told(telling) => {
            if telling.is_between_processes() && !call.visitor.own {
                return Err("only another process of the same user is told".into());
            }
            Rows::begin(call.out, item.columns);
            return Ok(Outcome::Tell(telling));
        }
    }
    Ok(Outcome::Done("SHOW".into()))
}

/// Whether a setting is one that drivers set: it is accepted and ignored.
pub fn is_for_drivers(setting: &str) -> bool {
    find(setting).is_some_and(|item| item.help == Help::ForDrivers)
}

/// The items in the lines SHOW HELP has for them.
pub fn help_lines() -> Vec<String> {
    let mut lines: Vec<(u8, String)> = Vec::new();
    for item in ITEMS {
        let Help::Line(number) = item.help else {
            continue;
        };
        match lines.last_mut() {
            Some((last, line)) if *last == number => *line += &format!("|{}", item.name),
            _ => lines.push((number, item.name.to_owned())),
        }
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

/// The names of all items.
#[cfg(test)]
pub fn names() -> impl Iterator<Item = &'static str> {
    ITEMS.iter().map(|item| item.name)
}

fn find(name: &str) -> Option<&'static Item> {
    ITEMS
        .iter()
        .find(|item| item.name.eq_ignore_ascii_case(name))
}

fn no_rows(_: &Console, _: &mut Rows<'_>) {}
