//! The form of a statement, its number and its text.

use super::verb::Verb;

/// Stands for a constant in a form. No statement can hold it: to PostgreSQL a
/// NUL ends the string.
pub(super) const PLACEHOLDER: u8 = 0;

/// The number of a normalised statement, 16 hexadecimal digits when shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u64);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A statement's form, which lies in its [`Normaliser`](super::Normaliser).
#[derive(Debug)]
pub struct Normalised<'a> {
    pub(super) form: &'a [u8],
    /// What the statement, or the first of several, does.
    pub verb: Verb,
}

impl Normalised<'_> {
    /// The number of this form.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(twox_hash::XxHash3_64::oneshot(self.form))
    }

    /// The form as SQL, of at most `max` bytes; a longer one ends in `...`.
    /// Bytes that are no UTF-8 become U+FFFD.
    pub fn text(&self, max: usize) -> String {
        let mut text = Vec::new();
        let mut constants = 0;
        for piece in self.form.split_inclusive(|&b| b == PLACEHOLDER) {
            match piece.split_last() {
                Some((&PLACEHOLDER, words)) => {
                    constants += 1;
                    text.extend_from_slice(words);
                    text.extend_from_slice(format!("${constants}").as_bytes());
                }
                _ => text.extend_from_slice(piece),
            }
            if text.len() > max {
                break;
            }
        }
        shorten(&String::from_utf8_lossy(&text), max)
    }
}

/// `text`, or as much of it as fits into `max` bytes with `...` behind it.
pub(super) fn shorten(text: &str, max: usize) -> String {
    const MARK: &str = "...";
    if text.len() <= max {
        return text.to_owned();
    }
    let (room, mark) = max
        .checked_sub(MARK.len())
        .map_or((max, ""), |room| (room, MARK));
    let end = (0..=room)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    format!("{}{mark}", &text[..end])
}
