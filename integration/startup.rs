//! The first packets of a connection: parameters, odd names, garbage.

use crate::harness::backend::{Fields, Message};
use crate::harness::frontend::{self, VERSION_3, gssenc_request, ssl_request, startup, untyped};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::{Login, Lost, Wire};
use crate::harness::{only_pgweir, reference_is_pgweir};
use std::time::Duration;

#[track_caller]
fn assert_refused(error: &Fields, text: &str) {
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", text)
    );
}

/// A connection that has sent this.
fn sent(pooler: &Pooler<'_>, bytes: impl AsRef<[u8]>) -> Wire {
    let mut wire = Wire::connect(pooler.address());
    wire.send(bytes);
    wire
}

fn with_options(pooler: &Pooler<'_>, options: &str) -> Login {
    pooler.login("alice").parameter("options", options)
}

#[test]
fn a_startup_packet_may_come_byte_by_byte() {
    let pooler = Ini::transaction().start();
    let login = pooler.login("alice");
    let mut wire = Wire::connect(pooler.address());
    wire.send_in_pieces(login.packet(), 1);
    wire.finish_login(&login)
        .expect("it is all there in the end");
    assert_eq!(wire.value("select 1"), "1");
}

#[test]
fn startup_and_first_query_may_come_in_one_segment() {
    let pooler = Ini::transaction().start();
    let login = pooler.login("alice");
    let mut wire = sent(
        &pooler,
        [login.packet(), frontend::query("select 'early'")].concat(),
    );
    wire.finish_login(&login).expect("trust");
    let mut wire = wire.lawless();
    assert_eq!(wire.reply().value(), "early");
}

#[test]
fn the_database_is_the_user_where_none_is_named() {
    let pooler = Ini::transaction()
        .database("alice", "host=127.0.0.1 port=PORT dbname=DBNAME")
        .start();
    let login = Login::new("alice", "alice");
    let mut wire = sent(&pooler, startup(&[("user", "alice")]));
    wire.finish_login(&login)
        .expect("there is a database alice");
    assert_eq!(
        wire.value("select current_database()"),
        pooler.database.name
    );
}

#[test]
fn a_startup_packet_needs_a_user() {
    let pooler = Ini::transaction().start();
    for parameters in [
        &[("database", "db")][..],
        &[("database", "db"), ("user", "")],
    ] {
        let error = sent(&pooler, startup(parameters)).expect_fatal();
        assert_refused(&error, "no username supplied");
    }
}

#[test]
fn a_startup_packet_ends_with_its_terminator() {
    let pooler = Ini::transaction().start();
    let text = "invalid startup packet layout: expected terminator as last byte";
    let whole = b"user\0alice\0database\0db\0\0";
    for body in [
        &whole[..whole.len() - 1],
        &[whole, b"\0" as &[u8]].concat(),
        &[whole, b"x" as &[u8]].concat(),
    ] {
        assert_refused(
            &sent(&pooler, untyped(VERSION_3, body)).expect_fatal(),
            text,
        );
    }
}

#[test]
fn protocol_2_is_refused() {
    let pooler = Ini::transaction().start();
    let error = sent(&pooler, untyped(2 << 16, &[0; 288])).expect_fatal();
    assert_refused(&error, "old V2 protocol not supported");
}

#[test]
fn a_later_protocol_3_is_negotiated_down() {
    let pooler = Ini::transaction().start();
    let parameters = [
        ("user", "alice"),
        ("database", "db"),
        ("_pq_.command_tag_format", "legacy"),
    ];
    // PgBouncer has 3.0 only.
    let newest = if reference_is_pgweir() { 2 } else { 0 };
    for asked in [0, 2, 3, 9999] {
        let spoken = newest.min(asked);
        let packet = frontend::startup_version(VERSION_3 + asked, &parameters);
        let mut wire = sent(&pooler, packet);
        let names = vec!["_pq_.command_tag_format".to_owned()];
        assert_eq!(
            wire.recv(),
            Message::NegotiateProtocolVersion(VERSION_3 + spoken, names)
        );
        wire.finish_login(&pooler.login("alice"))
            .expect("then it goes on");
        assert_eq!(wire.key.len(), if spoken < 2 { 8 } else { 36 });
        assert_eq!(wire.value("select 1"), "1");
    }
}

#[test]
fn what_is_spoken_is_not_negotiated() {
    if only_pgweir("PgBouncer speaks 3.0 alone") {
        return;
    }
    let pooler = Ini::transaction().start();
    for (minor, key) in [(0, 8), (1, 8), (2, 36)] {
        let login = pooler.login("alice").minor(minor);
        let mut wire = sent(&pooler, login.packet());
        assert!(matches!(wire.recv(), Message::Authentication(0, _)));
        wire.finish_login(&login).expect("let in");
        assert_eq!(wire.key.len(), key, "3.{minor}");
    }
}

#[test]
fn an_unknown_parameter_is_refused() {
    let pooler = Ini::transaction().start();
    let login = pooler.login("alice").parameter("extra_float_digits", "3");
    assert_refused(
        &login.refused_at(pooler.address()),
        "unsupported startup parameter: extra_float_digits",
    );
}

#[test]
fn an_ignored_parameter_is_swallowed() {
    let pooler = Ini::transaction()
        .set("ignore_startup_parameters", "work_mem, extra_float_digits")
        .start();
    for name in ["extra_float_digits", "work_mem"] {
        let login = pooler.login("alice").parameter(name, "99");
        let mut client = login
            .at(pooler.address())
            .expect("the parameter is ignored");
        assert_ne!(client.value(&format!("show {name}")), "99");
    }
}

#[test]
fn tracked_parameters_reach_the_server() {
    let pooler = Ini::transaction().start();
    let parameters = [
        ("client_encoding", "LATIN1"),
        ("DateStyle", "SQL, DMY"),
        ("TimeZone", "Asia/Tokyo"),
        ("standard_conforming_strings", "off"),
        ("application_name", "it's \"me\""),
    ];
    let login = parameters
        .iter()
        .fold(pooler.login("alice"), |login, (name, value)| {
            login.parameter(name, value)
        });
    let mut client = login.at(pooler.address()).expect("tracked parameters");
    for (name, value) in parameters {
        assert_eq!(client.value(&format!("show {name}")), value);
        assert_eq!(client.parameters.get(name).map(String::as_str), Some(value));
    }
}

#[test]
fn tracked_parameters_follow_the_client_to_any_server() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler
        .login("alice")
        .parameter("application_name", "one")
        .at(pooler.address())
        .expect("in");
    let mut second = pooler.client();
    first.run("set timezone = 'Asia/Tokyo'");
    second.run("set datestyle = 'German'");
    for _ in 0..3 {
        assert_eq!(first.value("show timezone"), "Asia/Tokyo");
        assert_eq!(first.value("show application_name"), "one");
        assert_eq!(first.value("show datestyle"), "ISO, MDY");
        assert_ne!(second.value("show timezone"), "Asia/Tokyo");
        assert_eq!(second.value("show application_name"), "");
        assert_eq!(second.value("show datestyle"), "German, DMY");
    }
}

#[test]
fn a_value_in_other_words_than_the_servers_is_set_once() {
    let pooler = Ini::transaction().one_server().start();
    pooler.console("SET verbose = 1");
    let mut client = with_options(&pooler, "-c DateStyle=ISO")
        .at(pooler.address())
        .expect("DateStyle is tracked");
    for _ in 0..3 {
        assert_eq!(client.value("show datestyle"), "ISO, MDY");
    }
    pooler.console("SET verbose = 0");
    let log = pooler.log();
    assert_eq!(log.matches("SET DateStyle='ISO'").count(), 1, "{log}");
    let canonical = "setting DateStyle to its canonical version ISO -> ISO, MDY";
    assert!(log.contains(canonical), "{log}");
}

#[test]
fn login_notify_message_greets_clients() {
    let pooler = Ini::transaction()
        .set("login_notify_message", "Be welcome")
        .start();
    let mut client = pooler.client();
    client.run("select 1");
    let notices: Vec<_> = client
        .asides
        .iter()
        .map(|aside| format!("{aside:?}"))
        .collect();
    assert!(notices[0].contains("Be welcome"), "{notices:?}");
}

#[test]
fn extra_parameters_are_tracked_where_the_server_reports_them() {
    let pooler = Ini::transaction().one_server().start();
    let login = pooler.login("alice").parameter("IntervalStyle", "iso_8601");
    let mut first = login
        .at(pooler.address())
        .expect("IntervalStyle is tracked");
    let mut second = pooler.client();
    assert_eq!(second.value("select interval '1 day'"), "1 day");
    assert_eq!(first.value("select interval '1 day'"), "P1D");
    assert_eq!(second.value("select interval '1 day'"), "1 day");
}

#[test]
fn a_bad_value_of_a_tracked_parameter_is_refused() {
    let pooler = Ini::transaction().start();
    let login = pooler
        .login("alice")
        .parameter("timezone", "nowhere/at all");
    let mut client = login.at(pooler.address()).expect("nobody has looked yet");
    client.send(frontend::query("select 1"));
    assert_refused(&client.expect_fatal(), "invalid server parameter");
    pooler.assert_serves();
}

#[test]
fn options_set_tracked_parameters() {
    let pooler = Ini::transaction().start();
    for options in [
        "-c datestyle=German",
        "-cdatestyle=German",
        "--datestyle=German",
        "  -c  datestyle=German -c timezone=Asia/Tokyo",
    ] {
        let mut client = with_options(&pooler, options)
            .at(pooler.address())
            .expect(options);
        assert_eq!(client.value("show datestyle"), "German, DMY", "{options}");
    }
    let escaped = "-c application_name=two\\ words";
    let mut client = with_options(&pooler, escaped)
        .at(pooler.address())
        .expect(escaped);
    assert_eq!(client.value("show application_name"), "two words");
}

#[test]
fn options_know_only_two_forms() {
    let pooler = Ini::transaction().start();
    let text = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
    for options in ["-d 5", "nonsense", "-c", "--datestyle"] {
        assert_refused(
            &with_options(&pooler, options).refused_at(pooler.address()),
            text,
        );
    }
}

#[test]
fn an_unknown_parameter_in_options_is_refused() {
    let pooler = Ini::transaction().start();
    let refused = with_options(&pooler, "-c work_mem=99").refused_at(pooler.address());
    assert_refused(
        &refused,
        "unsupported startup parameter in options: work_mem",
    );
}

#[test]
fn ignored_parameters_are_swallowed_in_options_too() {
    let pooler = Ini::transaction()
        .set("ignore_startup_parameters", "work_mem")
        .start();
    with_options(&pooler, "-c work_mem=99")
        .at(pooler.address())
        .expect("work_mem is ignored");
    let pooler = Ini::transaction()
        .set("ignore_startup_parameters", "options")
        .start();
    with_options(&pooler, "-c anything=1")
        .at(pooler.address())
        .expect("all of options is ignored");
}

#[test]
fn encryption_requests_are_answered_no() {
    let pooler = Ini::transaction().start();
    let login = pooler.login("alice");
    let mut wire = sent(&pooler, ssl_request());
    assert_eq!(wire.recv_byte(), Ok(b'N'));
    wire.send(gssenc_request());
    assert_eq!(wire.recv_byte(), Ok(b'N'));
    wire.send(login.packet());
    wire.finish_login(&login).expect("it goes on in clear text");
    assert_eq!(wire.value("select 1"), "1");
}

#[test]
fn data_that_comes_with_an_encryption_request_is_refused() {
    let pooler = Ini::transaction().start();
    let login = pooler.login("alice").packet();
    for extra in [&login[..], &login[..1], &ssl_request()] {
        let error = sent(&pooler, [&ssl_request(), extra].concat()).expect_fatal();
        assert_refused(&error, "received unencrypted data after SSL request");
        let error = sent(&pooler, [&gssenc_request(), extra].concat()).expect_fatal();
        assert_refused(
            &error,
            "received unencrypted data after GSSAPI encryption request",
        );
    }
    pooler.assert_serves();
}

#[test]
fn a_startup_length_that_cannot_be_is_refused() {
    let pooler = Ini::transaction().start();
    for length in [0_u32, 1, 3, 4, 7, 0x0001_0000, 0x00ff_ffff] {
        let packet = [&length.to_be_bytes()[..], &VERSION_3.to_be_bytes()].concat();
        let error = sent(&pooler, &packet).expect_fatal();
        let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_refused(&error, &format!("bad packet header: '{hex}'"));
    }
    pooler.assert_serves();
}

#[test]
fn an_unknown_special_packet_is_refused() {
    let pooler = Ini::transaction().start();
    for code in [0, 1 << 16, 4 << 16, 80_877_101, 80_877_105, u32::MAX] {
        let error = sent(&pooler, untyped(code, &[])).expect_fatal();
        assert!(
            error.text().starts_with("bad packet header: '00000008"),
            "{error:?}"
        );
    }
    pooler.assert_serves();
}

#[test]
fn garbage_harms_only_its_connection() {
    let pooler = Ini::transaction().set("client_login_timeout", 2).start();
    let mut innocent = pooler.client();
    let announced = |length: u32| [b"Q" as &[u8], &length.to_be_bytes(), b"select"].concat();
    let garbage = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0xff; 8],
        vec![0xff; 100_000],
        vec![0; 100_000],
        vec![b'A'; 100_000],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        announced(0),
        announced(3),
        announced(0x7fff_ffff),
        announced(0x8000_0000),
        announced(u32::MAX),
    ];
    crate::harness::together(garbage.len(), |index| {
        let mut wire = sent(&pooler, &garbage[index]);
        match wire.try_recv() {
            // Some of it looks like the begin of a long message.
            Ok(Message::ErrorResponse(fields)) => {
                assert_eq!((fields.severity(), fields.code()), ("FATAL", "08P01"));
                wire.expect_closed();
            }
            other => assert_eq!(other, Err(Lost::Closed), "garbage {index}"),
        }
    });
    assert_eq!(innocent.value("select 1"), "1");
    pooler.assert_serves();
}

#[test]
fn half_a_startup_packet_may_end_anywhere() {
    let pooler = Ini::transaction().start();
    let packet = pooler.login("alice").packet();
    for end in 0..packet.len() {
        drop(sent(&pooler, &packet[..end]));
        sent(&pooler, &packet[..end]).reset();
    }
    pooler.assert_serves();
}

#[test]
fn a_startup_packet_larger_than_a_buffer_is_read() {
    let pooler = Ini::transaction()
        .set("ignore_startup_parameters", "padding")
        .start();
    let login = pooler
        .login("alice")
        .parameter("padding", &"x".repeat(9000));
    assert_eq!(
        login
            .at(pooler.address())
            .expect("it is read whole")
            .value("select 1"),
        "1"
    );
}

#[test]
fn names_of_any_length_harm_only_their_client() {
    let pooler = Ini::transaction()
        .database("*", "host=127.0.0.1 port=PORT dbname=DBNAME")
        .start();
    let mut innocent = pooler.client_of("bob");
    let mut refused = 0;
    for size in [0, 1, 62, 63, 64, 127, 128, 255, 9000, 10_000] {
        let name = "n".repeat(size);
        for login in [
            Login::new("alice", &name),
            Login::new(&name, "db"),
            Login::new("alice", "db").parameter("options", &name),
        ] {
            match login.at(pooler.address()) {
                Ok(mut client) => assert_eq!(client.value("select 1"), "1"),
                Err(error) => {
                    assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"));
                    refused += 1;
                }
            }
        }
    }
    // No user of these is known, and no options; databases above 63 bytes are
    // not either. None is the user's own, and no options are none.
    assert!(refused >= 10 + 9 + 6, "{refused} refused");
    let long = Login::new(&"u".repeat(128), "db").refused_at(pooler.address());
    assert_refused(&long, "username too long");
    assert_eq!(innocent.value("select 1"), "1");
    pooler.assert_serves();
}

#[test]
fn names_that_are_no_text_harm_only_their_client() {
    let pooler = Ini::transaction().set("verbose", 2).start();
    for name in [
        b"\xff\xfe\x80" as &[u8],
        b"\x01\x02\x1b[2J\x7f\xc2\x9b0m\r",
        b"x\n2000-01-01 00:00:00.000 UTC [1] LOG forged",
        b"%s%n%x",
        b"../..",
        b"'; drop table x; --",
    ] {
        for (user, database) in [(name, b"db" as &[u8]), (b"alice", name)] {
            let body = [b"user\0", user, b"\0database\0", database, b"\0\0"].concat();
            let error = sent(&pooler, untyped(VERSION_3, &body))
                .lawless()
                .expect_fatal();
            assert_eq!(error.code(), "08P01");
        }
    }
    pooler.assert_serves();
    let log = pooler.log();
    let forged = log.lines().find(|line| line.starts_with("2000"));
    assert_eq!(forged, None, "a line of its own:\n{log}");
    if reference_is_pgweir() {
        let is_layout = |c: char| matches!(c, '\n' | '\t');
        let strange = log.chars().find(|&c| c.is_control() && !is_layout(c));
        assert_eq!(strange, None, "a terminal would obey:\n{log:?}");
    }
}

#[test]
fn a_clients_address_is_added_to_its_name_on_request() {
    let pooler = Ini::transaction()
        .set("application_name_add_host", 1)
        .start();
    let login = pooler.login("alice").parameter("application_name", "me");
    let mut client = login.at(pooler.address()).expect("in");
    let name = client.value("show application_name");
    assert!(name.starts_with("me - 127.0.0.1:"), "{name}");
    let name = pooler.client().value("show application_name");
    assert!(name.starts_with("app - 127.0.0.1:"), "{name}");
}

#[test]
fn a_connection_that_says_nothing_is_no_trouble() {
    let pooler = Ini::transaction().start();
    let mut silent = Wire::connect(pooler.address());
    silent.expect_silence(Duration::from_millis(100));
    drop(silent);
    pooler.assert_serves();
    assert!(
        !pooler.log().contains("unexpected eof"),
        "a probe is not logged:\n{}",
        pooler.log()
    );
}
