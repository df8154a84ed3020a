//! What monitoring reads from the console: the statements that
//! prometheus-community's pgbouncer_exporter sends by lib/pq, and the columns
//! and values it needs.

use crate::harness::backend::Message;
use crate::harness::frontend;
use crate::harness::pooler::{Ini, Pooler, Table};
use crate::harness::postgres::password_of;
use crate::harness::wire::{Login, Wire};

/// What lib/pq has said at startup, by its releases.
const STARTUPS: &[&[(&str, &str)]] = &[
    &[],
    &[("client_encoding", "UTF8"), ("datestyle", "ISO, MDY")],
    &[
        ("extra_float_digits", "2"),
        ("client_encoding", "UTF8"),
        ("datestyle", "ISO, MDY"),
    ],
    &[
        ("application_name", "pgbouncer_exporter"),
        ("extra_float_digits", "2"),
        ("client_encoding", "UTF8"),
        ("datestyle", "ISO, MDY"),
    ],
];

/// Statements with a row for each object: labels, then numbers.
const ROWS: &[(&str, &[&str], &[&str])] = &[
    (
        "SHOW DATABASES;",
        &[
            "name",
            "host",
            "port",
            "database",
            "force_user",
            "pool_mode",
        ],
        &[
            "pool_size",
            "reserve_pool_size",
            "max_connections",
            "current_connections",
            "paused",
            "disabled",
        ],
    ),
    (
        "SHOW STATS_TOTALS;",
        &["database"],
        &[
            "server_assignment_count",
            "xact_count",
            "query_count",
            "bytes_received",
            "bytes_sent",
            "xact_time",
            "query_time",
            "wait_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
        ],
    ),
    (
        "SHOW POOLS;",
        &["database", "user"],
        &[
            "cl_active",
            "cl_waiting",
            "cl_active_cancel_req",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
        ],
    ),
];

/// Rows of SHOW LISTS.
const LISTS: &[&str] = &[
    "databases",
    "users",
    "pools",
    "free_clients",
    "used_clients",
    "login_clients",
    "free_servers",
    "used_servers",
    "dns_names",
    "dns_zones",
    "dns_queries",
];

/// Types that lib/pq makes a Go string or integer of, which labels have to be.
const LABEL_TYPES: [u32; 3] = [20, 23, 25];

fn monitored() -> Pooler<'static> {
    let pooler = Ini::transaction()
        .set("auth_type", "scram-sha-256")
        .set("ignore_startup_parameters", "extra_float_digits")
        .start();
    let mut client = pooler.client();
    client.run("select 1");
    client.ask(frontend::extended("select 2", &[])).succeeded();
    client.leave();
    pooler
}

/// The exporter's connection; it is one that may only look.
fn exporter(pooler: &Pooler<'_>, startup: &[(&str, &str)]) -> Wire {
    let mut login = Login::new("stats", "pgbouncer").password(&password_of("stats"));
    for (name, value) in startup {
        login = login.parameter(name, value);
    }
    login
        .at(pooler.address())
        .unwrap_or_else(|error| panic!("{startup:?}: {error:?}"))
}

fn ask(exporter: &mut Wire, statement: &str) -> Table {
    let reply = exporter.query(statement);
    // Text format: lib/pq takes what the columns say.
    let described = matches!(reply.messages.first(), Some(Message::RowDescription(_)));
    assert!(described, "{statement}: {reply:?}");
    Table::from(reply.succeeded())
}

#[track_caller]
fn assert_number(text: &str, what: &str) {
    let number: f64 = text.parse().unwrap_or(f64::NAN);
    assert!(number >= 0.0, "{what} is {text}");
}

#[test]
fn an_exporter_logs_in_as_every_release_of_its_driver_does() {
    let pooler = monitored();
    for startup in STARTUPS {
        let mut exporter = exporter(&pooler, startup);
        assert!(!ask(&mut exporter, "SHOW STATS").rows.is_empty());
        // lib/pq reads these and gives up where they say something else.
        let told = |name: &str| exporter.parameters.get(name).map(String::as_str);
        assert_eq!(told("client_encoding"), Some("UTF8"));
        assert_eq!(told("DateStyle"), Some("ISO"));
        assert_eq!(told("standard_conforming_strings"), Some("on"));
        exporter.leave();
    }
}

#[test]
fn an_exporter_finds_its_labels_and_numbers() {
    let pooler = monitored();
    let mut exporter = exporter(&pooler, STARTUPS[1]);
    for (statement, labels, numbers) in ROWS {
        let table = ask(&mut exporter, statement);
        let kind = |name: &str| {
            let column = table.columns.iter().find(|(known, _)| known == name);
            column.map(|(_, kind)| *kind)
        };
        for label in *labels {
            let kind = kind(label).unwrap_or_else(|| panic!("{statement} lacks {label}"));
            assert!(LABEL_TYPES.contains(&kind), "{statement} {label}: {kind}");
        }
        assert!(
            table.rows.len() > 1,
            "{statement}: the console's row and db's"
        );
        for row in &table.rows {
            for number in *numbers {
                assert_number(&row.text(number), &format!("{statement} {number}"));
            }
        }
    }
}

#[test]
fn an_exporter_finds_version_lists_and_settings() {
    let pooler = monitored();
    let mut exporter = exporter(&pooler, STARTUPS[1]);
    let version = ask(&mut exporter, "SHOW VERSION;");
    assert_eq!(version.columns, [("version".to_owned(), 25)]);
    assert!(version.rows[0].text("version").starts_with("PgBouncer "));

    let lists = ask(&mut exporter, "SHOW LISTS;");
    assert_eq!(lists.columns.len(), 2);
    for list in LISTS {
        assert_number(&lists.row(&[("list", list)]).text("items"), list);
    }
    // It parses them all, known to it or not.
    for items in lists.column("items") {
        assert_number(&items, "a list");
    }

    let config = ask(&mut exporter, "SHOW CONFIG;");
    assert_eq!(config.columns.len(), 4, "key, value, default, changeable");
    for key in ["max_client_conn", "max_user_connections"] {
        assert_number(&config.row(&[("key", key)]).text("value"), key);
    }

    let login = pooler.login("alice").parameter("application_name", "shop");
    let _client = login.at(pooler.address()).expect("alice logs in");
    let clients = ask(&mut exporter, "SHOW CLIENTS;");
    let wanted = [
        ("database", "db"),
        ("user", "alice"),
        ("application_name", "shop"),
    ];
    assert!(["active", "idle"].contains(&clients.row(&wanted).text("state").as_str()));
}
