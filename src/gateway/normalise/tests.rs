//! Statements, their forms, and what must hold for all of them.

use proptest::prelude::*;

use super::*;
use crate::gateway::Fingerprint;
use crate::gateway::lists::MAX_DEPTH;

fn text(sql: &str) -> String {
    Normaliser::default()
        .normalise(sql.as_bytes())
        .text(usize::MAX)
}

fn fingerprint(sql: &str) -> Fingerprint {
    Normaliser::default()
        .normalise(sql.as_bytes())
        .fingerprint()
}

fn verb(sql: &str) -> Verb {
    Normaliser::default().normalise(sql.as_bytes()).verb
}

/// Statements and their forms.
const EXAMPLES: &[(&str, &str)] = &[
    // pgbench
    (
        "SELECT abalance FROM pgbench_accounts WHERE aid = 123456;",
        "select abalance from pgbench_accounts where aid = $1",
    ),
    (
        "UPDATE pgbench_accounts SET abalance = abalance + -4711 WHERE aid = 7;",
        "update pgbench_accounts set abalance = abalance + $1 where aid = $2",
    ),
    (
        "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 3, -4, CURRENT_TIMESTAMP);",
        "insert into pgbench_history(tid, bid, aid, delta, mtime) values ($1, $2, $3, $4, current_timestamp)",
    ),
    ("BEGIN;", "begin"),
    ("END;", "end"),
    // bingo
    (
        "SELECT customers.id, customers.name FROM customers WHERE customers.id IN ($1) ORDER BY customers.surname ASC, customers.id DESC LIMIT 100000",
        "select customers.id, customers.name from customers where customers.id in ($1) order by customers.surname asc, customers.id desc limit $2",
    ),
    (
        "SELECT sessions.id FROM sessions INNER JOIN customers ON sessions.customer_id = customers.id LIMIT 100000",
        "select sessions.id from sessions inner join customers on sessions.customer_id = customers.id limit $1",
    ),
    ("SELECT pg_sleep(0.1)", "select pg_sleep($1)"),
    (
        "SELECT NOT pg_is_in_recovery()",
        "select not pg_is_in_recovery()",
    ),
    // Constants of every form
    (
        "select 1, 1.5e-3, .5, 0x1F, 1_000",
        "select $1, $2, $3, $4, $5",
    ),
    (
        r"select 'it''s', E'it\'s', U&'d\0061', B'01', X'1F'",
        "select $1, $2, $3, $4, $5",
    ),
    ("select $$it's$$, $tag$ $$ $tag$, $1", "select $1, $2, $3"),
    ("select 'a'\n'b', 'c'", "select $1, $2"),
    ("select $2 + $1", "select $1 + $2"),
    (
        "select interval '1 day', date '2020-01-01'",
        "select interval $1, date $2",
    ),
    // Signs
    ("select -1, +2, - 3", "select $1, $2, $3"),
    (
        "select a - 1, a -1, (a)-1, 2-1, a[1]-1",
        "select a - $1, a - $2, (a) - $3, $4 - $5, a[$6] - $7",
    ),
    ("where a=-1 and b>- 1", "where a = $1 and b > $2"),
    ("select - -1, -a, -$1", "select - $1, - a, - $2"),
    ("limit -1 offset -2", "limit $1 offset $2"),
    // Lists
    ("x IN (1, 2, 3)", "x in ($1)"),
    ("x in(1,-2,'c',null)", "x in ($1)"),
    (
        "x IN ($1,$2,$3) and y NOT IN ('a')",
        "x in ($1) and y not in ($2)",
    ),
    ("x in (1, 2, a, 3, 4)", "x in ($1, a, $2)"),
    ("x in (1::int, 2::int)", "x in ($1::int)"),
    ("(a, b) in ((1, null), (3, 4))", "(a, b) in (($1, $2))"),
    ("x in (select 1, 1, 1)", "x in (select $1, $2, $3)"),
    ("x in (values (1), (2))", "x in (values ($1))"),
    ("x in (a, a)", "x in (a, a)"),
    ("array[1,2,3], ARRAY[[1,2],[3,4]]", "array[$1], array[[$2]]"),
    (
        "insert into t values (1, null), (true, 'x') returning id",
        "insert into t values ($1, $2) returning id",
    ),
    ("values (1, now()), (2, now())", "values ($1, now())"),
    (
        "values (1, default), (2, default), (default, 3)",
        "values ($1, default), (default, $2)",
    ),
    (
        "f(1, 1), (1, 1), row(2, 2)",
        "f($1, $2), ($3, $4), row($5, $6)",
    ),
    ("x is null and y = null", "x is null and y = null"),
    // Names, operators, punctuation
    (
        r#"SELECT "Foo"."a""b", Foo.BAR FROM "T""#,
        r#"select "Foo"."a""b", foo.bar from "T""#,
    ),
    (
        "select U&\"D\\0061\" , t.In(1)",
        "select u&\"D\\0061\", t.in($1)",
    ),
    ("a::TEXT::varchar(10)", "a::text::varchar($1)"),
    (
        "a||b->>'c'#>'{d}' @> $1::jsonb ? 'k'",
        "a || b ->> $1 #> $2 @> $3::jsonb ? $4",
    ),
    ("a[1:2], a [ 3 ]", "a[$1 : $2], a[$3]"),
    ("f(a => 1, b := 2)", "f(a => $1, b := $2)"),
    ("COUNT( * ) , t . *", "count(*), t.*"),
    ("Имя = 1", "Имя = $1"),
    // Comments
    (
        "/* app */ select/**/1 -- end\n+ 2 /* /* */ */",
        "select $1 + $2",
    ),
    ("select 1 -- :-)", "select $1"),
    // Several statements
    (";; select 1 ; ; select 2 ;", "select $1; select $2"),
    ("select -; 1", "select -; $1"),
    ("", ""),
    (" -- nothing", ""),
    // Names that drivers invent
    ("SAVEPOINT sp_1", "savepoint $1"),
    ("RELEASE SAVEPOINT \"sp 2\"", "release savepoint $1"),
    (
        "rollback to savepoint active_record_1",
        "rollback to savepoint $1",
    ),
    ("ROLLBACK", "rollback"),
    ("DEALLOCATE pdo_stmt_00000001", "deallocate $1"),
    ("DEALLOCATE ALL", "deallocate all"),
    (
        "DECLARE c_17 CURSOR FOR SELECT a FROM t",
        "declare $1 cursor for select a from t",
    ),
    ("FETCH FORWARD 100 FROM c_17", "fetch forward $1 from $2"),
    ("CLOSE c_17", "close $1"),
    (
        "SET search_path TO tenant_1, public",
        "set search_path to $1, $2",
    ),
    (
        "set local x = DEFAULT; update t set a = b",
        "set local x = default; update t set a = b",
    ),
    // Broken
    ("select 'abc", "select $1"),
    ("select \"abc", "select \"abc"),
    ("1foo ) ] ( ,, $ $x", "$1 foo)] (,, $ $ x"),
];

#[test]
fn forms_are_as_in_the_table() {
    for (sql, expected) in EXAMPLES {
        assert_eq!(text(sql), *expected, "for {sql}");
    }
}

#[test]
fn forms_of_the_table_are_stable() {
    for (sql, form) in EXAMPLES {
        assert_eq!(text(form), *form, "for {sql}");
        assert_eq!(fingerprint(form), fingerprint(sql), "for {sql}");
    }
}

#[test]
fn forms_that_differ_have_different_fingerprints() {
    let mut forms: Vec<_> = EXAMPLES.iter().map(|(_, form)| *form).collect();
    let mut fingerprints: Vec<_> = forms.iter().map(|form| fingerprint(form)).collect();
    for list in [
        &mut forms.iter().map(|f| fingerprint(f)).collect::<Vec<_>>(),
        &mut fingerprints,
    ] {
        list.sort_unstable();
        list.dedup();
    }
    forms.sort_unstable();
    forms.dedup();
    assert_eq!(fingerprints.len(), forms.len());
}

#[test]
fn structure_makes_a_difference() {
    for (one, other) in [
        ("select a from t", "select b from t"),
        ("select a, b", "select a b"),
        ("select 1", "select 1, 1"),
        ("select a from t", "select a from \"T\""),
        ("a < b", "a <= b"),
        ("f(a)(b)", "f(a, b)"),
        ("values (1, 2)", "values (1), (2, 3)"),
        ("select a - 1", "select a, -1"),
        ("x in (1)", "x = 1"),
        ("a.b", "a b"),
    ] {
        assert_ne!(fingerprint(one), fingerprint(other), "{one} and {other}");
    }
}

#[test]
fn fingerprint_is_the_same_in_every_release() {
    // From another implementation of XXH3, of the form with NUL for `$1`.
    assert_eq!(
        fingerprint("SELECT pg_sleep(0.1)").to_string(),
        "dd38d3b0d6aff43a"
    );
}

#[test]
fn verbs_are_read_from_the_words() {
    for (sql, expected) in [
        ("/* x */ Select 1", Verb::Select),
        ("(select 1) union select 2", Verb::Select),
        (
            "with x as (delete from t returning a) insert into u select * from x",
            Verb::Insert,
        ),
        (
            "with recursive x(a) as (select 1) select a from x",
            Verb::Select,
        ),
        ("start transaction; select 1", Verb::Begin),
        ("END", Verb::Commit),
        ("copy t from stdin", Verb::Copy),
        ("explain analyze select 1", Verb::Explain),
        ("table t", Verb::Select),
        ("move 1 in c", Verb::Fetch),
        ("frobnicate select", Verb::Other),
        ("\"select\" 1", Verb::Other),
        ("", Verb::Other),
    ] {
        assert_eq!(verb(sql), expected, "for {sql}");
    }
}

#[test]
fn text_is_cut_at_a_character() {
    let mut normaliser = Normaliser::default();
    let form = normaliser.normalise("select имя, 1".as_bytes());
    assert_eq!(form.text(17), "select имя, $1");
    assert_eq!(form.text(13), "select и...");
    assert_eq!(form.text(2), "se");
    assert_eq!(form.text(0), "");
}

#[test]
fn a_long_list_ends_alike_whatever_its_length() {
    let list = |item: &str, count| vec![item; count].join(", ");
    for (head, item) in [
        ("select a from t where b in (", "'x'"),
        ("insert into t values ", "(1, 'x', null)"),
        ("select a from t where (b, c) in (", "(1, 2)"),
    ] {
        let forms =
            [9_000, 9_001, 12_345].map(|count| text(&format!("{head}{}", list(item, count))));
        assert!(forms[0].ends_with(" ..."), "{}", forms[0]);
        assert!(forms.iter().all(|form| *form == forms[0]), "{forms:?}");
    }
}

#[test]
fn a_statement_of_the_greatest_length_is_read_whole() {
    let sql = format!("{:>MAX_READ$}", "select 1");
    assert_eq!(text(&sql), "select $1");
    assert_eq!(text(&format!("{sql} ")), "select ...");
}

#[test]
fn nesting_beyond_the_limit_is_kept() {
    let deep = |n: usize| format!("{}x in (1, 2){}", "(".repeat(n), ")".repeat(n));
    assert!(text(&deep(MAX_DEPTH - 1)).contains("in ($1)"));
    assert!(text(&deep(MAX_DEPTH)).contains("in ($1, $2)"));
    assert!(text(&format!("{}, x in (1, 2)", deep(500))).ends_with(", x in ($3)"));
}

#[test]
fn forming_allocates_nothing_once_warm() {
    let mut normaliser = Normaliser::default();
    let sql = b"select a, b from t where x in (1, 2, 3) and y = 'z'";
    normaliser.normalise(sql);
    let before = (normaliser.form.as_ptr(), normaliser.form.capacity());
    normaliser.normalise(sql);
    assert_eq!(
        before,
        (normaliser.form.as_ptr(), normaliser.form.capacity())
    );
}

/// Pieces that statements are made of, and some that break them.
fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
    const PIECES: &[&str] = &[
        "select",
        "a",
        "t.b",
        "\"Q\"",
        "1",
        "-1",
        "'s'",
        "$1",
        "$$x$$",
        "in",
        "(",
        "(",
        ")",
        ")",
        "values",
        "array",
        "[",
        "]",
        ",",
        ",",
        "=",
        "-",
        "+",
        "::",
        "int",
        ";",
        ".",
        ":",
        "null",
        "e",
        "u",
        "&",
        "$",
        "*",
        "/",
        "--c\n",
        "/*c*/",
        "where",
        "and",
        "@",
        "E'x'",
        "0x1",
        "\"",
        "'",
        "savepoint",
        "declare",
        "set",
        "to",
        "with",
        "?",
        "1.5",
        "\\",
        "{",
    ];
    prop::collection::vec(prop::sample::select(PIECES), 0..24)
}

proptest! {
    #[test]
    fn forming_a_form_again_changes_nothing(pieces in pieces(), glue in " |") {
        let once = text(&pieces.join(&glue));
        prop_assert_eq!(&text(&once), &once);
        prop_assert_eq!(fingerprint(&once), fingerprint(&pieces.join(&glue)));
    }

    #[test]
    fn white_space_comments_and_case_make_no_difference(
        pieces in pieces(),
        gaps in prop::collection::vec(prop::sample::select(vec![" ", "\n\t ", " /*'*/ ", " --\"\n"]), 24),
    ) {
        // An open quote would swallow the gap.
        let pieces: Vec<_> = pieces.into_iter().filter(|p| !["'", "\""].contains(p)).collect();
          let plain = pieces.join(" ");
        let spaced: String = pieces.iter().zip(&gaps).flat_map(|(p, gap)| [p, *gap]).collect();
        prop_assert_eq!(fingerprint(&plain), fingerprint(&spaced));
        prop_assert_eq!(fingerprint(&plain), fingerprint(&plain.to_uppercase()));
    }

    #[test]
    fn constants_make_no_difference(n: u32, f in 0.0..1e9f64, s in "[^']*", t in "[^$]*") {
        let sql = |n: &str, f: &str, s: &str, t: &str| {
            format!("select {n} from t where a = {f} and b = '{s}' or c = $t${t}$t$ limit -{n}")
        };
        let other = sql(&n.to_string(), &f.to_string(), &s.replace('\0', ""), &t.replace('\0', ""));
        prop_assert_eq!(fingerprint(&other), fingerprint(&sql("0", "0", "", "")));
    }

    #[test]
    fn any_bytes_have_a_form(sql: Vec<u8>, max in 0usize..100) {
        let mut normaliser = Normaliser::default();
        prop_assert!(normaliser.normalise(&sql).text(max).len() <= max);
    }

    #[test]
    fn any_long_statement_has_a_form_that_says_it_is_cut(pieces in pieces(), glue in " |") {
        prop_assume!(!pieces.is_empty());
        let piece = pieces.join(&glue) + &glue;
        let sql = piece.repeat(MAX_READ / piece.len() + 1) + "select";
        prop_assert!(text(&sql).ends_with(" ..."));
    }
}
