//! What a kept answer is found by, and what it varies with.

use hyper::Uri;
use hyper::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, COOKIE, HeaderMap, HeaderName, HeaderValue, RANGE, VARY,
};

use super::control::words;
use crate::balancer::hygiene;

/// Fields that an answer may vary with.
const SELECTING_MAX: usize = 4;

/// Bytes that a request may have in them.
const SELECTING_BYTES_MAX: usize = 1024;

/// What a kept answer is found by. Nothing but a rule makes one: a route
/// without the setting cannot reach the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    target: Uri,
    /// What the request has in the fields that the answer varies with, in the
    /// order of their names. The node gets these, and no other field of it.
    selecting: Vec<(HeaderName, Option<HeaderValue>)>,
}

impl Key {
    /// That of the target alone.
    pub(super) fn of(target: &Uri) -> Key {
        Key {
            target: target.clone(),
            selecting: Vec::new(),
        }
    }

    /// What is asked of a node.
    pub(super) fn target(&self) -> &Uri {
        &self.target
    }

    /// The key of the answer for a request with these headers, if answers to
    /// the target vary with these fields. None if it says too much in them.
    pub(super) fn select(&self, names: &[HeaderName], headers: &HeaderMap) -> Option<Key> {
        let mut bytes = 0;
        let mut selecting = Vec::with_capacity(names.len());
        for name in names {
            let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
            let values: Vec<_> = values.map(<[u8]>::trim_ascii).collect();
            let joined = values.join(&b", "[..]);
            bytes += joined.len();
            let value = match values.is_empty() {
                true => None,
                false => Some(HeaderValue::from_bytes(&joined).ok()?),
            };
            selecting.push((name.clone(), value));
        }
        (bytes <= SELECTING_BYTES_MAX).then(|| Key {
            target: self.target.clone(),
            selecting,
        })
    }

    /// The fields that are part of it.
    pub(super) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.selecting.iter().map(|(name, _)| name)
    }

    /// What the request has in them.
    pub(super) fn selecting(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let fields = self.selecting.iter();
        fields.filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }

    /// Whether it is that of one of several answers to its target.
    pub(super) fn is_variant(&self) -> bool {
        !self.selecting.is_empty()
    }

    /// The key of the target alone.
    pub(super) fn bare(&self) -> Key {
        Key::of(&self.target)
    }

    /// Its bytes in memory, roughly.
    pub(super) fn size(&self) -> usize {
        let target = self.target.path_and_query();
        let fields = self.selecting.iter().map(|(name, value)| {
            let value = value.as_ref().map_or(0, HeaderValue::len);
            name.as_str().len() + value
        });
        target.map_or(0, |it| it.as_str().len()) + fields.sum::<usize>()
    }
}

/// What an answer varies with (RFC 9111, 4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Varies {
    /// Nothing but these fields, which are part of its key.
    Not,
    /// These fields: as sorted names, with those that its key has.
    With(Vec<HeaderName>),
    /// Fields that no key can have.
    Unknown,
}

impl Varies {
    /// An answer of this key and head. What it varies with and is not in its
    /// key was not in its request either; an encoding is never asked for.
    pub(super) fn of(key: &Key, headers: &HeaderMap) -> Varies {
        let mut names: Vec<_> = key.names().cloned().collect();
        let known = names.len();
        for word in words(headers, &VARY) {
            match HeaderName::from_bytes(word.as_bytes()) {
                // It is a name like any other, but for what it means.
                _ if word == "*" => return Varies::Unknown,
                Ok(name) if name == ACCEPT_ENCODING || names.contains(&name) => {}
                Ok(name) if can_select(&name) => names.push(name),
                _ => return Varies::Unknown,
            }
        }
        match names.len() {
            it if it == known => Varies::Not,
            it if it > SELECTING_MAX => Varies::Unknown,
            _ => {
                names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
                Varies::With(names)
            }
        }
    }
}

/// Whether a field of a client's may go to a node in a request for the cache.
/// Not what says who the client is, nor what asks for less than the answer.
fn can_select(name: &HeaderName) -> bool {
    let is_condition = name.as_str().starts_with("if-");
    let is_for_caches = [CACHE_CONTROL, RANGE, COOKIE].contains(name);
    hygiene::is_passed_on(name) && !is_condition && !is_for_caches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varies(key: &Key, vary: &'static str) -> Varies {
        let vary = HeaderValue::from_static(vary);
        Varies::of(key, &HeaderMap::from_iter([(VARY, vary)]))
    }

    fn names(of: &[&'static str]) -> Vec<HeaderName> {
        of.iter().map(|it| HeaderName::from_static(it)).collect()
    }

    #[test]
    fn an_answer_varies_with_what_was_not_asked_with() {
        let bare = Key::of(&Uri::from_static("/"));
        for same in ["", ",", "Accept-Encoding"] {
            assert_eq!(varies(&bare, same), Varies::Not, "{same}");
        }
        let both = names(&["accept", "origin"]);
        assert_eq!(varies(&bare, "Origin, accept"), Varies::With(both.clone()));
        let key = bare.select(&both, &HeaderMap::new()).expect("a key");
        for same in ["", "Accept", "ORIGIN, Accept-Encoding"] {
            assert_eq!(varies(&key, same), Varies::Not, "{same}");
        }
        let more = names(&["accept", "foo", "origin"]);
        assert_eq!(varies(&key, "Foo"), Varies::With(more));
        for unknown in [
            "*",
            "Accept, *",
            "Cookie",
            "Authorization",
            "X-Forwarded-Proto",
            "Host",
            "Range",
            "If-None-Match",
            "Transfer_Encoding",
            "no field",
            "a, b, c, d, e",
        ] {
            assert_eq!(varies(&bare, unknown), Varies::Unknown, "{unknown}");
        }
    }

    #[test]
    fn a_key_has_what_a_request_has_in_its_fields_and_not_more_than_a_little() {
        let bare = Key::of(&Uri::from_static("/"));
        let fields = names(&["accept", "origin"]);
        let key = |values: &[&'static str]| {
            let values = values.iter().map(|it| HeaderValue::from_static(it));
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("accept", value);
            }
            bare.select(&fields, &headers)
        };
        assert_eq!(key(&["a", " b "]), key(&["a, b"]));
        let all = [key(&[]), key(&[""]), key(&["a"]), key(&["a, b"])];
        for (one, other) in [(0, 1), (0, 2), (1, 2), (2, 3)] {
            assert_ne!(all[one], all[other]);
        }
        let long = HeaderValue::from_bytes(&[b'a'; SELECTING_BYTES_MAX + 1]).expect("letters");
        let headers = HeaderMap::from_iter([(HeaderName::from_static("accept"), long)]);
        assert_eq!(bare.select(&fields, &headers), None);
        let selected = all[2].clone().expect("a key");
        assert_eq!(selected.bare(), bare);
        assert_eq!(
            selected.selecting().count(),
            1,
            "what is not there is not sent"
        );
    }
}
