//! Statements: the text of a Query or Parse is any bytes.

use std::cell::RefCell;

use super::lexer::{Kind, Lexer};
use super::mentions::{Act, Mentions, folded, mentions_statements};
use super::normalise::{MAX_READ, Normaliser};
use super::observer::Observer;
use super::queries::{DatabaseId, Queries};
use super::slots::Slot;
use super::templates::{MAX_TEXT, Templates, plain_constant};
use crate::config;

/// Statements that an input is compared with at most.
const STATEMENTS: usize = 16;

thread_local! {
    /// Kept, as making one takes longer than all else; and how many inputs
    /// have used it, each under a database of its own.
    static TEMPLATES: RefCell<(Templates, u32)> = RefCell::new((Templates::new(), 0));
}

/// Statements, with a zero byte between them: tokens are in order, the form
/// does not depend on constants, and what fits a template has its form.
pub fn gateway(data: &[u8]) {
    let texts: Vec<&[u8]> = data
        .split(|&byte| byte == 0)
        .take(STATEMENTS)
        .filter(|text| text.len() <= MAX_READ / 8)
        .collect();
    for text in &texts {
        tokens(text);
        forms(text);
        mentions(text);
    }
    TEMPLATES.with_borrow_mut(|(templates, count)| {
        *count += 1;
        templates_agree(&texts, templates, *count);
    });
    observer(&texts);
}

/// The form as bytes, and the fingerprint.
fn form(text: &[u8]) -> (Vec<u8>, u64) {
    let mut normaliser = Normaliser::default();
    let normalised = normaliser.normalise(text);
    (normalised.form.to_vec(), normalised.fingerprint().0)
}

fn tokens(text: &[u8]) {
    let mut end = 0;
    for token in Lexer::new(text) {
        assert!(token.start >= end && token.end > token.start);
        assert!(token.end <= text.len());
        end = token.end;
    }
}

fn forms(text: &[u8]) {
    let (own, fingerprint) = form(text);
    // A normaliser that was used before forms alike.
    let mut normaliser = Normaliser::default();
    normaliser.normalise(b"with x as (select array[(1, 'a");
    assert_eq!(normaliser.normalise(text).form, own);
    let behind = [b" /* /* 'a */ \" */ --\n", text].concat();
    assert_eq!(form(&behind).1, fingerprint, "behind a comment");
    let other = with_other_constants(text);
    assert_eq!(form(&other).1, fingerprint, "{}", other.escape_ascii());
    let shown = normaliser.normalise(text).text(usize::MAX);
    for max in [0, 1, 3, 50] {
        assert!(normaliser.normalise(text).text(max).len() <= max);
    }
    if std::str::from_utf8(&own).is_ok() {
        let again = normaliser.normalise(shown.as_bytes());
        assert_eq!(again.form, own, "formed again: {shown}");
    }
}

/// What names prepared statements is in order, and is the same with the
/// servers' names.
fn mentions(text: &[u8]) {
    let (mut renamed, mut acts, mut from) = (Vec::new(), Vec::new(), 0);
    for mention in Mentions::new(text) {
        let (name, rest) = (mention.name, mention.rest);
        assert!(name.start >= from && name.end > name.start);
        assert!(rest.start == name.end && rest.end >= rest.start);
        assert!(rest.end <= text.len());
        let apart: &[u8] = match (mention.act, text.get(name.end)) {
            (Act::DeallocateAll, _) => b"",
            (_, Some(b'"')) => b" ",
            _ => b"",
        };
        acts.push((mention.act, [apart, &text[rest]].concat()));
        renamed.extend_from_slice(&text[from..name.start]);
        from = name.end;
        match mention.act {
            Act::DeallocateAll => renamed.extend_from_slice(&text[name]),
            _ => {
                if let Some(plain) = folded(&text[name]) {
                    let quoted = quoted(&plain);
                    assert_eq!(folded(&quoted), Some(plain));
                }
                renamed.extend_from_slice(b"\"PGBOUNCER_1\"");
                // Two quoted names need something between them.
                renamed.extend_from_slice(apart);
            }
        }
    }
    renamed.extend_from_slice(&text[from..]);
    let again =
        Mentions::new(&renamed).map(|mention| (mention.act, renamed[mention.rest].to_vec()));
    let text = renamed.escape_ascii();
    assert_eq!(again.collect::<Vec<_>>(), acts, "{text}");
}

fn quoted(name: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for &byte in name {
        quoted.extend(std::iter::repeat_n(byte, 1 + usize::from(byte == b'"')));
    }
    quoted.push(b'"');
    quoted
}

/// The same statement with other plain constants.
fn with_other_constants(text: &[u8]) -> Vec<u8> {
    let (mut other, mut from) = (Vec::new(), 0);
    for token in Lexer::new(text) {
        if plain_constant(token, text).is_none() {
            continue;
        }
        other.extend_from_slice(&text[from..token.start]);
        other.extend_from_slice(match token.kind {
            Kind::Number => b"907",
            _ => b"';--'",
        });
        from = token.end;
    }
    other.extend_from_slice(&text[from..]);
    other
}

fn templates_agree(texts: &[&[u8]], templates: &mut Templates, database: u32) {
    let mut forms = Vec::new();
    let mut check = |templates: &mut Templates, text: &[u8], known: bool| {
        let own = form(text).0;
        if text.len() > MAX_TEXT {
            return;
        }
        match templates.find(database, text) {
            Some(slot) => assert_eq!(forms[slot.0 as usize], own, "{}", text.escape_ascii()),
            None => {
                assert!(!known, "lost: {}", text.escape_ascii());
                templates.insert(database, text, Slot(forms.len() as u32));
                let found = templates.find(database, text);
                assert_eq!(found, Some(Slot(forms.len() as u32)));
                forms.push(own);
            }
        }
    };
    for text in texts {
        check(templates, text, false);
        check(templates, &with_other_constants(text), true);
    }
}

/// A statement seen again is the same statement, and so is one of its form.
fn observer(texts: &[&[u8]]) {
    thread_local! {
        static OBSERVER: RefCell<(Observer, DatabaseId)> = {
            let queries = Queries::new(&config::Queries {
                max_statements: 100_000,
                ..config::Queries::default()
            });
            RefCell::new((queries.observer(), queries.database_id("db")))
        };
    }
    OBSERVER.with_borrow_mut(|(observer, database)| {
        let mut slots = Vec::new();
        for text in texts {
            let seen = observer.look(*database, text);
            assert_eq!(observer.look(*database, text), seen);
            assert_eq!(seen.mentions, mentions_statements(text));
            let slot = seen.slot;
            slots.push((slot, form(text).1));
        }
        for (index, (slot, own)) in slots.iter().enumerate() {
            for (other_slot, other) in &slots[..index] {
                assert!(own != other || slot == other_slot);
                let is_own = slot.0 != database.0;
                assert!(own == other || slot != other_slot || !is_own);
            }
        }
    });
}
