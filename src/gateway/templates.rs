//! Statements seen before, but for their constants, so that they need not be
//! formed.

use memchr::memchr;
use twox_hash::XxHash3_64;

use super::lexer::{Kind, Lexer, Token};
use super::slots::Slot;

/// Templates that can be remembered.
const ENTRIES: usize = 2048;
/// Templates whose hashes compete for the same places.
const WAYS: usize = 4;
const SETS: usize = ENTRIES / WAYS;

/// Bytes of templates that can be remembered.
const MEMORY: usize = 512 * 1024;

/// The longest statement worth remembering; so that a few long ones do not
/// drive out all others.
pub(super) const MAX_TEXT: usize = MEMORY / 64;

/// Bytes in front of each piece: what stands before it, and its length.
const PIECE_HEAD: usize = 3;

/// From (database, text) to slot, whatever the text's plain constants: runs
/// of digits and `'...'`. All other bytes are compared, so two statements are
/// never taken for each other, however hashes fall; that texts with equal
/// bytes between their plain constants have one form is the lexer's doing,
/// which decides nothing by a constant's value.
///
/// The templates lie in one ring of fixed size whose oldest bytes are
/// overwritten; nothing is allocated after the start.
#[derive(Debug)]
pub(super) struct Templates {
    sets: Box<[[Entry; WAYS]]>,
    ring: Box<[u8]>,
    /// Bytes ever written, less by [`MEMORY`] at most than the place of any
    /// template still there.
    head: u64,
}

/// A template and its slot.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    hash: u64,
    /// What `head` was before the template was written; zero for none.
    at: u64,
    length: u32,
    database: u32,
    slot: u32,
}

/// What goes before a piece of text that is the same in all statements of a
/// template.
mod before {
    pub(super) const NOTHING: u8 = b'.';
    pub(super) const DIGITS: u8 = b'0';
    pub(super) const QUOTED: u8 = b'\'';
}

impl Templates {
    pub(super) fn new() -> Self {
        Templates {
            sets: vec![[Entry::default(); WAYS]; SETS].into(),
            ring: vec![0; MEMORY].into(),
            // So that an entry that was never written is out of date.
            head: 2 * MEMORY as u64,
        }
    }

    /// The slot of a text of at most [`MAX_TEXT`] bytes, if one like it is
    /// remembered.
    #[inline]
    pub(super) fn find(&self, database: u32, text: &[u8]) -> Option<Slot> {
        let hash = hash(text);
        let found = |entry: &&Entry| {
            entry.hash == hash
                && entry.database == database
                && self.head - entry.at <= MEMORY as u64
                && fits(&self.ring[place(entry.at)..][..entry.length as usize], text)
        };
        let entry = self.sets[set(hash)].iter().find(found)?;
        Some(Slot(entry.slot))
    }

    /// Remembers the slot of a text of at most [`MAX_TEXT`] bytes, which was
    /// not found, in the place of the oldest template that competes with it.
    pub(super) fn insert(&mut self, database: u32, text: &[u8], slot: Slot) {
        let length = written(text, |_| {});
        // A template lies in one piece; what is left at the end is skipped.
        let left = MEMORY - place(self.head);
        let skipped = if length > left { left } else { 0 };
        let at = self.head + skipped as u64;
        self.head = at + length as u64;
        let mut ring = &mut self.ring[place(at)..];
        written(text, |bytes| {
            let (here, rest) = std::mem::take(&mut ring).split_at_mut(bytes.len());
            here.copy_from_slice(bytes);
            ring = rest;
        });
        let hash = hash(text);
        let entry = Entry {
            hash,
            at,
            length: length as u32,
            database,
            slot: slot.0,
        };
        let oldest = self.sets[set(hash)].iter_mut().min_by_key(|entry| entry.at);
        *oldest.expect("a set has its ways") = entry;
    }
}

/// Writes the template of a text, bit by bit; answers its length.
fn written(text: &[u8], mut write: impl FnMut(&[u8])) -> usize {
    let (mut length, mut from, mut kind) = (0, 0, before::NOTHING);
    let mut piece = |kind, bytes: &[u8]| {
        let [high, low] = (bytes.len() as u16).to_be_bytes();
        write(&[kind, high, low]);
        write(bytes);
        length += PIECE_HEAD + bytes.len();
    };
    for token in Lexer::new(text) {
        if let Some(constant) = plain_constant(token, text) {
            piece(kind, &text[from..token.start]);
            (from, kind) = (token.end, constant);
        }
    }
    piece(kind, &text[from..]);
    length
}

/// Whether a token is a constant that another of its kind can stand for
/// without changing how the text around it is read.
pub(super) fn plain_constant(token: Token, text: &[u8]) -> Option<u8> {
    let bytes = &text[token.start..token.end];
    let next = text.get(token.end).copied().unwrap_or(b' ');
    match token.kind {
        // A letter or dot behind digits would be read as a part of others.
        Kind::Number
            if bytes.iter().all(u8::is_ascii_digit)
                && (next.is_ascii() && !next.is_ascii_alphanumeric())
                && !matches!(next, b'.' | b'_' | b'$') =>
        {
            Some(before::DIGITS)
        }
        // Closed by its next quote: one that has quotes inside is left alone.
        Kind::Text
            if bytes[0] == b'\''
                && memchr(b'\'', &bytes[1..]).map(|end| end + 2) == Some(bytes.len()) =>
        {
            Some(before::QUOTED)
        }
        _ => None,
    }
}

/// Whether a text is one of a template.
#[inline]
fn fits(mut template: &[u8], text: &[u8]) -> bool {
    let mut at = 0;
    while let Some((&[kind, high, low], rest)) = template.split_first_chunk::<PIECE_HEAD>() {
        let start = at;
        match kind {
            before::DIGITS => {
                while text.get(at).is_some_and(u8::is_ascii_digit) {
                    at += 1;
                }
                if at == start {
                    return false;
                }
            }
            before::QUOTED => {
                let Some((b'\'', inside)) = text[at..].split_first() else {
                    return false;
                };
                let Some(end) = memchr(b'\'', inside) else {
                    return false;
                };
                at += end + 2;
            }
            _ => {}
        }
        let (piece, rest) = rest.split_at(u16::from_be_bytes([high, low]).into());
        if !text[at..].starts_with(piece) {
            return false;
        }
        at += piece.len();
        template = rest;
    }
    at == text.len()
}

/// Of what all texts of a template have in common: what stands before the
/// first byte that can begin a plain constant, and the length of what stands
/// behind the last.
#[inline]
fn hash(text: &[u8]) -> u64 {
    let head = text.len() - after_head(text).len();
    let tail = text.iter().rev().take_while(|&&b| !may_be_plain(b)).count();
    let tail = if head == text.len() { 0 } else { tail as u64 };
    XxHash3_64::oneshot(&text[..head]) ^ tail.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The text from its first byte on that can belong to a plain constant.
#[inline]
fn after_head(mut text: &[u8]) -> &[u8] {
    // Without a branch for each byte, so that the compiler takes many at once.
    while let Some((block, rest)) = text.split_first_chunk::<16>()
        && !block.iter().fold(false, |any, &b| any | may_be_plain(b))
    {
        text = rest;
    }
    let within = text.iter().position(|&b| may_be_plain(b));
    &text[within.unwrap_or(text.len())..]
}

/// Digits and the apostrophe, and a few more bytes that cost less to take
/// with them than to tell apart.
#[inline]
fn may_be_plain(byte: u8) -> bool {
    (byte & 0xf0 == 0x30) | (byte == b'\'')
}

#[inline]
fn set(hash: u64) -> usize {
    hash as usize % SETS
}

#[inline]
fn place(at: u64) -> usize {
    at as usize % MEMORY
}

#[cfg(test)]
mod tests {
    use super::super::normalise::Normaliser;
    use super::*;

    const SLOT: Slot = Slot(7);

    fn knowing(text: &str) -> Templates {
        let mut templates = Templates::new();
        templates.insert(1, text.as_bytes(), SLOT);
        templates
    }

    #[track_caller]
    fn same(text: &str, other: &str) {
        assert_eq!(knowing(text).find(1, other.as_bytes()), Some(SLOT));
    }

    #[track_caller]
    fn other(text: &str, other: &str) {
        assert_eq!(knowing(text).find(1, other.as_bytes()), None);
    }

    #[test]
    fn a_text_is_found_again_in_its_database() {
        let templates = knowing("select a from t");
        assert_eq!(templates.find(1, b"select a from t"), Some(SLOT));
        assert_eq!(templates.find(2, b"select a from t"), None);
        assert_eq!(Templates::new().find(0, b""), None);
    }

    #[test]
    fn plain_constants_may_be_others() {
        same("select 1, 'a' from t", "select 234, '' from t");
        same("a=-1", "a=-22");
        same("in (1,2)", "in (33,0)");
        same("values ('a\nb', 1);", "values (';--', 1);");
    }

    #[test]
    fn all_else_is_compared() {
        other("select 1 from t", "select 1 from T");
        other("select 1", "select 1 ");
        other("select 1", "select ");
        other("select 'a'", "select 'a");
        other("select 'a'", "select 'a'''");
        other("select 'a', 'b'", "select 'a'', 'b'");
        other("select $1", "select $2");
    }

    #[test]
    fn constants_that_are_not_plain_stay() {
        for constant in [
            "1.5", "1e5", "0x1f", "1_000", ".5", "E'a'", "b'1'", "'a''b'", "$$1$$",
        ] {
            let text = format!("select {constant} from t");
            same(&text, &text);
            other(
                &text,
                &text.replace('1', "2").replace('a', "b").replace(".5", ".6"),
            );
        }
    }

    #[test]
    fn digits_in_names_are_no_constants() {
        other("select a1 from t", "select a2 from t");
        other("select 1 from t1", "select 1 from t2");
        other("/* 1 */ select a", "/* 2 */ select a");
        other(r#"select "1""#, r#"select "2""#);
    }

    #[test]
    fn the_oldest_of_competing_templates_goes() {
        let mut templates = Templates::new();
        let text = |n: usize| format!("select 1{}2 end", " + 1".repeat(n)).into_bytes();
        for n in 0..=WAYS {
            templates.insert(0, &text(n), Slot(n as u32));
        }
        assert_eq!(templates.find(0, &text(0)), None);
        for n in 1..=WAYS {
            assert_eq!(templates.find(0, &text(n)), Some(Slot(n as u32)));
        }
    }

    #[test]
    fn templates_that_were_overwritten_are_not_found() {
        let mut templates = Templates::new();
        // An odd length, so that they begin everywhere and the end is skipped.
        let letters = |n: u32| {
            n.to_string()
                .bytes()
                .map(|b| b - b'0' + b'a')
                .collect::<Vec<_>>()
        };
        let text = |n: u32| letters(n).repeat(1001);
        for n in 0..1000 {
            templates.insert(0, &text(n), Slot(n));
            assert_eq!(templates.find(0, &text(n)), Some(Slot(n)));
        }
        for n in 0..1000 {
            let found = templates.find(0, &text(n));
            let is_recent = n >= 1000 - (MEMORY / 3100) as u32 + 2;
            assert!(found.is_none() || found == Some(Slot(n)));
            assert!(!is_recent || found.is_some(), "{n} is recent");
            assert!(n >= 500 || found.is_none(), "{n} is old");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_fits_a_template_has_its_form(
            texts in proptest::collection::vec("((select|in ?\\(|a1|[-+.$_eb*/(),;\" 'x\n])?([0-9]{0,2}|'[a0']?'?)){0,6}", 2..40),
        ) {
            let mut templates = Templates::new();
            let form = |text: &str| Normaliser::default().normalise(text.as_bytes()).fingerprint();
            let mut forms = Vec::new();
            for text in &texts {
                let own = form(text);
                match templates.find(0, text.as_bytes()) {
                    Some(slot) => proptest::prop_assert_eq!(forms[slot.0 as usize], own, "{}", text),
                    None => {
                        templates.insert(0, text.as_bytes(), Slot(forms.len() as u32));
                        forms.push(own);
                        let found = templates.find(0, text.as_bytes());
                        proptest::prop_assert_eq!(found, Some(Slot(forms.len() as u32 - 1)));
                    }
                }
            }
        }
    }
}
