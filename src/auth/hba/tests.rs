//! Rules as they stand in files, and who they let in how.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

const TRUST: Means = Means::Exchange(Method::Trust);
const MD5: Means = Means::Exchange(Method::Md5);

/// The rules of a text, with files of names beside it.
fn parse_with(text: &str, files: &[(&str, &str)], ident: &str) -> (Rules, Vec<Notice>) {
    let files: HashMap<PathBuf, Vec<u8>> = files
        .iter()
        .map(|(path, text)| (path.into(), text.as_bytes().to_vec()))
        .collect();
    let (maps, _) = IdentMaps::parse(ident.as_bytes());
    let read = |path: &Path| {
        files
            .get(path)
            .cloned()
            .ok_or(io::ErrorKind::NotFound.into())
    };
    Rules::parse(text.as_bytes(), Path::new("/etc/hba.conf"), &maps, read)
}

fn rules(text: &str) -> Rules {
    let (rules, notices) = parse_with(text, &[], "");
    assert_eq!(notices, [], "{text}");
    rules
}

/// The faults of a text's lines.
fn faults(text: &str) -> Vec<(usize, Fault)> {
    let (_, notices) = parse_with(text, &[], "");
    let fault = |notice: Notice| match notice {
        Notice::Skipped { line, fault } => (line, fault),
        Notice::Mismatch { .. } => panic!("{text}: {notice:?}"),
    };
    notices.into_iter().map(fault).collect()
}

fn visit<'a>(origin: &str, database: &'a str, user: &'a str) -> Visit<'a> {
    let origin = match origin {
        "unix" => Origin::Unix,
        address => Origin::Ip(address.parse().expect("an address")),
    };
    Visit {
        origin: Some(origin),
        is_encrypted: false,
        is_physical_replication: false,
        database,
        user,
    }
}

/// What the rules ask of `user`, who comes from `origin` to `database`.
fn means(rules: &Rules, origin: &str, database: &str, user: &str) -> Option<Means> {
    let rule = rules.decide(&visit(origin, database, user));
    rule.map(|rule| rule.means.clone())
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = rules("host all ann 10.0.0.0/8 reject\nhost all all 10.0.0.0/8 md5\n");
    assert_eq!(means(&rules, "10.1.1.1", "d", "ann"), Some(Means::Reject));
    assert_eq!(means(&rules, "10.1.1.1", "d", "bob"), Some(MD5));
    assert_eq!(means(&rules, "11.1.1.1", "d", "ann"), None);
    assert_eq!(means(&rules, "unix", "d", "ann"), None);
}

#[test]
fn without_rules_nobody_gets_in() {
    assert_eq!(means(&Rules::default(), "unix", "d", "ann"), None);
}

#[test]
fn a_socket_that_is_gone_fits_no_rule() {
    let rules = rules("local all all trust\nhost all all all trust\n");
    let gone = Visit {
        origin: None,
        ..visit("unix", "d", "ann")
    };
    assert!(rules.decide(&gone).is_none());
}

#[test]
fn every_method_has_its_word() {
    let methods = [
        ("trust", TRUST),
        ("reject", Means::Reject),
        ("md5", MD5),
        ("password", Means::Exchange(Method::Plain)),
        ("scram-sha-256", Means::Exchange(Method::ScramSha256)),
        ("peer", Means::Peer),
        ("cert", Means::Certificate),
        ("pam", Means::Pam),
        ("ldap a=\"b c\" d=e", Means::Ldap("a=\"b c\" d=e".into())),
    ];
    for (word, expected) in methods {
        let rules = rules(&format!("local all all {word}"));
        assert_eq!(means(&rules, "unix", "d", "u"), Some(expected), "{word}");
    }
    for word in ["any", "plain", "MD5", "ident", "\"trust\"", ""] {
        let found = faults(&format!("local all all {word}"));
        assert!(
            matches!(found[..], [(1, Fault::Method(_))]),
            "{word}: {found:?}"
        );
    }
}

#[test]
fn the_type_says_which_sockets() {
    let cases = [
        ("local all all", [true, false, false]),
        ("host all all all", [false, true, true]),
        ("hostssl all all all", [false, false, true]),
        ("hostnossl all all all", [false, true, false]),
    ];
    for (line, expected) in cases {
        let rules = rules(&format!("{line} trust"));
        let fits = |origin, is_encrypted| {
            let visit = Visit {
                is_encrypted,
                ..visit(origin, "d", "u")
            };
            rules.decide(&visit).is_some()
        };
        let found = [fits("unix", false), fits("::1", false), fits("::1", true)];
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn addresses_fit_by_number_and_mask() {
    let cases = [
        ("all", "1.2.3.4", true),
        ("all", "face::1", true),
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("0.0.0.0/0", "1.2.3.4", true),
        ("0.0.0.0/0", "::1", false),
        ("::/0", "::1", true),
        ("::/0", "1.2.3.4", false),
        ("192.168.1.7/32", "192.168.1.7", true),
        ("192.168.1.7/32", "192.168.1.6", false),
        ("127.0.0.0 255.255.255.0", "127.0.0.9", true),
        ("127.0.0.0 255.255.255.0", "127.0.1.9", false),
        ("10.0.0.1 255.0.0.255", "10.9.9.1", true),
        ("10.0.0.1 255.0.0.255", "10.9.9.2", false),
        ("128.0.0.0/1", "254.1.1.1", true),
        ("128.0.0.0/1", "127.1.1.1", false),
        ("fe80::/10", "febf::1", true),
        ("fe80::/10", "fec0::1", false),
        ("fe80:: ffc0::", "febf::1", true),
        ("::1/128", "::1", true),
        ("::1/128", "::2", false),
    ];
    for (addresses, from, expected) in cases {
        let rules = rules(&format!("host all all {addresses} trust"));
        let fits = means(&rules, from, "d", "u").is_some();
        assert_eq!(fits, expected, "{from} in {addresses}");
    }
}

#[test]
fn an_address_outside_its_mask_is_told_and_fits_nobody() {
    let (rules, notices) = parse_with("\nhost all all 192.168.1.1/24 trust", &[], "");
    assert_eq!(
        notices[0].text(Path::new("/etc/hba.conf")),
        "address does not match mask in /etc/hba.conf line #2: 192.168.1.1 / 255.255.255.0"
    );
    assert_eq!(rules.len(), 1);
    for from in ["192.168.1.1", "192.168.1.0"] {
        assert_eq!(means(&rules, from, "d", "u"), None);
    }
}

#[test]
fn lists_name_databases_and_users() {
    let rules = rules("local d1 , d2,d3 ann,bob trust");
    for database in ["d1", "d2", "d3"] {
        for user in ["ann", "bob"] {
            assert_eq!(means(&rules, "unix", database, user), Some(TRUST));
        }
    }
    assert_eq!(means(&rules, "unix", "d4", "ann"), None);
    assert_eq!(means(&rules, "unix", "d1", "carol"), None);
    assert_eq!(means(&rules, "unix", "D1", "ann"), None);
}

#[test]
fn a_list_may_be_long() {
    let names: Vec<String> = (0..1000).map(|number| format!("u{number}")).collect();
    let rules = rules(&format!("local all {} trust", names.join(",")));
    assert_eq!(means(&rules, "unix", "d", "u999"), Some(TRUST));
    assert_eq!(means(&rules, "unix", "d", "u1000"), None);
}

#[test]
fn sameuser_is_the_database_of_the_users_name() {
    let rules = rules("local sameuser all trust\nlocal shared,sameuser all md5");
    assert_eq!(means(&rules, "unix", "ann", "ann"), Some(TRUST));
    assert_eq!(means(&rules, "unix", "shared", "ann"), Some(MD5));
    assert_eq!(means(&rules, "unix", "bob", "ann"), None);
}

#[test]
fn quoted_keywords_are_names() {
    let rules = rules("local \"all\" \"all\" trust\nlocal \"a \"\"b\"\"\" \"c,d\" md5");
    assert_eq!(means(&rules, "unix", "d", "u"), None);
    assert_eq!(means(&rules, "unix", "all", "all"), Some(TRUST));
    assert_eq!(means(&rules, "unix", "a \"b\"", "c,d"), Some(MD5));
}

#[test]
fn physical_replication_fits_only_rules_that_name_it() {
    let both = rules("local all ann md5\nlocal replication ann trust");
    let physical = Visit {
        is_physical_replication: true,
        ..visit("unix", "replication", "ann")
    };
    assert_eq!(both.decide(&physical).map(|rule| rule.line), Some(2));
    let quoted = rules("local \"replication\" all trust");
    assert!(quoted.decide(&physical).is_none());
    assert_eq!(means(&quoted, "unix", "replication", "ann"), Some(TRUST));
    let only = rules("local replication all trust");
    assert_eq!(means(&only, "unix", "replication", "ann"), None);
}

#[test]
fn names_come_from_files_beside_the_hba_file() {
    let files = [
        ("/etc/users", "ann,bob\n\"all\"\n@more/users\n"),
        ("/etc/more/users", "carol\n@dave"),
        ("/etc/more/dave", "dave"),
        ("/abs", "eve # a comment\n"),
    ];
    let (rules, notices) = parse_with("local all @users,@/abs trust", &files, "");
    assert_eq!(notices, []);
    for user in ["ann", "bob", "all", "carol", "dave", "eve"] {
        assert_eq!(means(&rules, "unix", "d", user), Some(TRUST), "{user}");
    }
    assert_eq!(means(&rules, "unix", "d", "frank"), None);
}

#[test]
fn a_file_of_names_that_is_bad_takes_its_rule_with_it() {
    let files = [
        ("/etc/blank", "ann\n\nbob\n"),
        ("/etc/self", "@self\n"),
        ("/etc/roles", "+admins\n"),
    ];
    for file in ["blank", "self", "roles", "none"] {
        let line = format!("local all @{file} trust");
        let (rules, notices) = parse_with(&line, &files, "");
        assert!(rules.is_empty(), "{file}");
        let fault = Fault::NameFile(file.into());
        assert_eq!(notices, [Notice::Skipped { line: 1, fault }]);
    }
}

#[test]
fn maps_are_found_by_name() {
    let (rules, notices) = parse_with("local all all peer map=m", &[], "m root ann");
    assert_eq!(notices, []);
    let rule = rules.decide(&visit("unix", "d", "ann")).expect("a rule");
    let map = rule.map.as_ref().expect("its map");
    assert!(map.admits(|name| name == b"root", "ann"));
}

#[test]
fn bad_lines_are_skipped_and_told() {
    let cases = [
        ("locale all all trust", Fault::Type),
        ("\"local\" all all trust", Fault::Type),
        ("local", Fault::Names),
        ("local all,", Fault::Names),
        ("local \"open all trust", Fault::Names),
        ("local samerole all trust", Fault::Roles("samerole")),
        ("local samegroup all trust", Fault::Roles("samegroup")),
        ("local all +admins trust", Fault::Roles("+group")),
        ("host all all", Fault::NoAddress),
        ("host all all \"all\" trust", Fault::NoAddress),
        (
            "host all all localhost trust",
            Fault::Address("localhost".into()),
        ),
        (
            "host all all samehost trust",
            Fault::Address("samehost".into()),
        ),
        (
            "host all all samenet trust",
            Fault::Address("samenet".into()),
        ),
        ("host all all 10.0.0.1", Fault::NoMask),
        ("host all all 10.0.0.1 trust", Fault::Mask("trust".into())),
        (
            "host all all 10.0.0.1 ff:: trust",
            Fault::Mask("ff::".into()),
        ),
        ("host all all 10.0.0.0/33 trust", Fault::Bits),
        ("host all all ::/129 trust", Fault::Bits),
        ("host all all 10.0.0.0/x trust", Fault::Bits),
        ("host all all 10.0.0.0/ trust", Fault::Bits),
        (
            "local all all trust clientcert=1",
            Fault::Option("clientcert=1".into()),
        ),
        ("local all all peer map=m", Fault::NoMap("m".into())),
        ("local all all trust \"more\"", Fault::TooLong),
    ];
    for (line, fault) in cases {
        let text = format!("# c\n{line}\n\t\n");
        assert_eq!(faults(&text), [(2, fault)], "{line}");
    }
}

#[test]
fn good_lines_around_a_bad_one_hold() {
    let (rules, _) = parse_with("local d ann trust\nnonsense\nlocal d bob md5", &[], "");
    assert_eq!(means(&rules, "unix", "d", "ann"), Some(TRUST));
    assert_eq!(means(&rules, "unix", "d", "bob"), Some(MD5));
}

#[test]
fn a_comment_may_follow_and_line_ends_may_be_dos() {
    let rules = rules("local all ann trust # why\r\nlocal all bob md5\r\n\r\n");
    assert_eq!(means(&rules, "unix", "d", "ann"), Some(TRUST));
    assert_eq!(means(&rules, "unix", "d", "bob"), Some(MD5));
}

proptest! {
    #[test]
    fn no_bytes_panic(text: Vec<u8>, ident: Vec<u8>) {
        let (maps, _) = IdentMaps::parse(&ident);
        let nothing = |_: &Path| Err(io::ErrorKind::NotFound.into());
        let _ = Rules::parse(&text, Path::new("hba"), &maps, nothing);
    }

    #[test]
    fn words_in_any_order_are_rules_or_faults(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "local", "host", "hostssl", "all", "sameuser", "replication", ",", "\"a\"",
                "@f", "+g", "10.0.0.0/8", "::1/128", "10.0.0.1", "255.0.0.0", "trust", "md5",
                "reject", "map=m", "#", "ldap",
            ]),
            0..9,
        ),
    ) {
        let (rules, notices) = parse_with(&words.join(" "), &[("/etc/f", "ann")], "m root ann");
        let is_fault = |notice: &&Notice| matches!(notice, Notice::Skipped { .. });
        prop_assert!(rules.len() + notices.iter().filter(is_fault).count() <= 1);
        let skipped = words.first().is_none_or(|word| *word == "#");
        prop_assert_eq!(rules.is_empty() && notices.is_empty(), skipped);
    }

    #[test]
    fn an_address_fits_its_own_network(bits in 0u32..=32, address: u32, other: u32) {
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let base = std::net::Ipv4Addr::from_bits(address & mask);
        let rules = rules(&format!("host all all {base}/{bits} trust"));
        let fits = |address: u32| {
            let from = std::net::Ipv4Addr::from_bits(address).to_string();
            means(&rules, &from, "d", "u").is_some()
        };
        prop_assert!(fits(address));
        prop_assert_eq!(fits(other), other & mask == address & mask);
    }
}
