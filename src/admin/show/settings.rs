//! CONFIG, STATE, DNS_HOSTS, DNS_ZONES, and MEM, which is empty here.

use super::result::{Column, Columns, Rows, Type, columns};
use crate::admin::console::Console;
use crate::config::{Pgbouncer, Section};

/// Columns of CONFIG.
pub const CONFIG: Columns = &[&columns(
    Type::Text,
    ["key", "value", "default", "changeable"],
)];

/// Columns of STATE.
pub const STATE: Columns = &[&columns(Type::Text, ["key", "value"])];

/// Columns of MEM.
pub const MEM: Columns = &[
    &columns(Type::Text, ["name"]),
    &columns(Type::Int, ["size", "used", "free", "memtotal"]),
];

/// Columns of DNS_HOSTS.
pub const DNS_HOSTS: Columns = &[&[
    Column {
        name: "hostname",
        kind: Type::Text,
    },
    Column {
        name: "ttl",
        kind: Type::BigInt,
    },
    Column {
        name: "addrs",
        kind: Type::Text,
    },
]];

/// Columns of DNS_ZONES.
pub const DNS_ZONES: Columns = &[&[
    Column {
        name: "zonename",
        kind: Type::Text,
    },
    Column {
        name: "serial",
        kind: Type::BigInt,
    },
    Column {
        name: "count",
        kind: Type::Int,
    },
]];

/// SHOW DNS_HOSTS.
pub fn dns_hosts(console: &Console, rows: &mut Rows<'_>) {
    for known in console.bouncer.names.names() {
        let addresses: Vec<String> = known.addresses.iter().map(ToString::to_string).collect();
        rows.put(&[
            known.name.as_str().into(),
            known.ttl.as_secs().into(),
            addresses.join(",").into(),
        ]);
    }
}

/// SHOW DNS_ZONES.
pub fn dns_zones(console: &Console, rows: &mut Rows<'_>) {
    for known in console.bouncer.names.zones() {
        rows.put(&[
            known.name.as_str().into(),
            known.serial.into(),
            known.names.into(),
        ]);
    }
}

/// SHOW CONFIG.
pub fn config(console: &Console, rows: &mut Rows<'_>) {
    let config = console.bouncer.config();
    for setting in Pgbouncer::SETTINGS {
        let value = match setting.kind.is_secret() {
            true => (setting.get)(&config.pgbouncer).map(|_| "***".into()),
            false => (setting.get)(&config.pgbouncer),
        };
        // The file it came from is the one it will be read from again.
        let read_from = || (setting.name == "conffile").then(|| config.path.display().to_string());
        let changeable = if setting.reloadable { "yes" } else { "no" };
        rows.put(&[
            setting.name.into(),
            value.or_else(read_from).into(),
            setting.default.into(),
            changeable.into(),
        ]);
    }
}

/// SHOW VERSION.
pub fn version(console: &Console, rows: &mut Rows<'_>) {
    let config = console.bouncer.config();
    let version = format!("PgBouncer {}", config.pgweir.pgbouncer_version);
    rows.put(&[version.into()]);
}

/// SHOW STATE.
pub fn state(console: &Console, rows: &mut Rows<'_>) {
    let (paused, suspended) = (console.bouncer.is_paused(), console.bouncer.is_suspended());
    let yes_or_no = |it: bool| if it { "yes" } else { "no" };
    for (key, value) in [
        ("active", !paused && !suspended),
        ("paused", paused),
        ("suspended", suspended),
    ] {
        rows.put(&[key.into(), yes_or_no(value).into()]);
    }
}
