//! Which answers may be kept, and for how long.

use std::time::Duration;

use hyper::header::{AGE, CACHE_CONTROL, HeaderMap, HeaderName, SET_COOKIE, VARY};
use hyper::{StatusCode, Uri};

use crate::config;

/// What is left at the end of an answer's life for its way to a slow client.
const MARGIN: Duration = Duration::from_secs(1);

/// What a route with the setting `cache` says about its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// No answer is served that is older than this.
    pub(super) max_age: Duration,
    /// Whether it is kept fresh although nobody asks for it.
    pub(super) is_warm: bool,
    /// Time for the origin to answer.
    pub(super) timeout: Duration,
}

/// What a kept answer is found by. Nothing but a [`Rule`] makes one: a route
/// without the setting cannot reach the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    target: Uri,
}

/// What may be done with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may be kept until it is as old as `life`; it was `age` old when it
    /// came.
    Keep {
        /// The sender's word for its age.
        age: Duration,
        /// Its lifetime.
        life: Duration,
    },
    /// Whoever waits for it gets it, and nobody else.
    Share,
    /// It is for one client alone.
    Private,
}

impl Rule {
    /// The rule of a route whose requests have `timeout`; none if it keeps
    /// nothing.
    pub(crate) fn of(route: &config::Route, timeout: Duration) -> Option<Rule> {
        let max_age = route.cache.filter(|it| !it.is_zero())?;
        Some(Rule {
            max_age,
            is_warm: route.cache_warm && !route.path.contains('{'),
            timeout,
        })
    }

    /// What the answer to this target is found by.
    pub(crate) fn key(&self, target: &Uri) -> Key {
        Key {
            target: target.clone(),
        }
    }

    /// No answer is served that is older than this.
    pub(crate) fn max_age(&self) -> Duration {
        self.max_age
    }

    /// Whether it is kept fresh although nobody asks for it.
    pub(crate) fn is_warm(&self) -> bool {
        self.is_warm
    }

    /// How old an answer may be when it is sent to a client.
    pub(super) fn servable_age(&self, life: Duration) -> Duration {
        let life = life.min(self.max_age);
        life - MARGIN.min(life / 10)
    }

    /// Longest time a node may take: what comes later could not be served.
    pub(super) fn flight_max(&self) -> Duration {
        self.timeout.min(self.servable_age(self.max_age))
    }

    /// What may be done with an answer of this head (RFC 9111, 3 and 4.2). The
    /// route has said that its answers may be kept; the answer can only say
    /// less.
    pub(super) fn judge(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let control = Control::read(headers);
        if headers.contains_key(SET_COOKIE) || control.is_private || varies(headers) {
            return Verdict::Private;
        }
        if status != StatusCode::OK {
            return Verdict::Share;
        }
        let life = control
            .max_age
            .map_or(self.max_age, |it| it.min(self.max_age));
        // Without digits it is no age; more digits than fit are a great age.
        let age = match headers.get(AGE).map(|it| seconds(it.as_bytes())) {
            None | Some(None) => Duration::ZERO,
            Some(Some(age)) => age,
        };
        match age < self.servable_age(life) {
            true => Verdict::Keep { age, life },
            false => Verdict::Private,
        }
    }
}

impl Key {
    /// What is asked of a node.
    pub(super) fn target(&self) -> &Uri {
        &self.target
    }

    /// Its bytes in memory, roughly.
    pub(super) fn size(&self) -> usize {
        self.target
            .path_and_query()
            .map_or(0, |it| it.as_str().len())
    }
}

/// Requests for the cache carry no header of a client's, so what an answer
/// varies with is not there; only an encoding is never asked for anyway.
fn varies(headers: &HeaderMap) -> bool {
    let names = words(headers, &VARY);
    names
        .into_iter()
        .any(|it| !it.eq_ignore_ascii_case("accept-encoding"))
}

/// What `Cache-Control` of an answer says to a shared cache.
struct Control {
    is_private: bool,
    /// `s-maxage`, else `max-age`.
    max_age: Option<Duration>,
}

impl Control {
    fn read(headers: &HeaderMap) -> Control {
        let (mut shared, mut all) = (None, None);
        let mut is_private = false;
        for word in words(headers, &CACHE_CONTROL) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            // What is no number is stale at once (RFC 9111, 4.2.1).
            let age = seconds(value.trim_matches('"').as_bytes()).unwrap_or_default();
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" | "no-cache" | "private" => is_private = true,
                "s-maxage" => shared = least(shared, age),
                "max-age" => all = least(all, age),
                _ => {}
            }
        }
        Control {
            is_private,
            max_age: shared.or(all),
        }
    }
}

fn least(before: Option<Duration>, age: Duration) -> Option<Duration> {
    Some(before.map_or(age, |before| before.min(age)))
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    let texts = values.map(|it| it.to_str().unwrap_or("*"));
    let words = texts.flat_map(|it| it.split(','));
    words.map(str::trim).filter(|it| !it.is_empty()).collect()
}

fn seconds(text: &[u8]) -> Option<Duration> {
    let text = text.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse::<u64>();
    Some(Duration::from_secs(
        number.unwrap_or(u64::MAX).min(config::MAX_SECONDS),
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const SECOND: Duration = Duration::from_secs(1);

    /// A rule of a minute.
    pub(in super::super) fn rule(max_age: u64) -> Rule {
        Rule {
            max_age: Duration::from_secs(max_age),
            is_warm: true,
            timeout: Duration::from_secs(25),
        }
    }

    fn judge(status: u16, rows: &[(&'static str, &'static str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        rule(60).judge(status, &headers)
    }

    fn keep(age: u64, life: u64) -> Verdict {
        Verdict::Keep {
            age: Duration::from_secs(age),
            life: Duration::from_secs(life),
        }
    }

    #[test]
    fn an_answer_can_only_shorten_its_life() {
        for (rows, expected) in [
            (&[][..], keep(0, 60)),
            (&[("cache-control", "public, max-age=600")], keep(0, 60)),
            (&[("cache-control", "max-age=10")], keep(0, 10)),
            (
                &[("cache-control", "max-age=10, S-MaxAge=\"20\"")],
                keep(0, 20),
            ),
            (
                &[
                    ("cache-control", "max-age=30"),
                    ("cache-control", "max-age=20"),
                ],
                keep(0, 20),
            ),
            (&[("age", "12")], keep(12, 60)),
            (&[("age", "x")], keep(0, 60)),
            (&[("vary", "Accept-Encoding")], keep(0, 60)),
        ] {
            assert_eq!(judge(200, rows), expected, "{rows:?}");
        }
    }

    #[test]
    fn what_is_for_one_client_is_kept_from_the_others() {
        for row in [
            ("set-cookie", "a=b"),
            ("cache-control", "no-store"),
            ("cache-control", "max-age=60, Private"),
            ("cache-control", "private=\"a, b\""),
            ("cache-control", "no-cache"),
            ("cache-control", "max-age=x"),
            ("cache-control", "max-age=0"),
            ("vary", "*"),
            ("vary", "Accept-Encoding, Cookie"),
            ("age", "60"),
            ("age", "99999999999999999999999"),
        ] {
            assert_eq!(judge(200, &[row]), Verdict::Private, "{row:?}");
        }
    }

    #[test]
    fn only_a_200_is_kept() {
        for status in [206, 301, 404, 429, 500, 503] {
            assert_eq!(judge(status, &[]), Verdict::Share, "{status}");
        }
    }

    #[test]
    fn the_margin_is_a_second_or_a_tenth() {
        assert_eq!(rule(60).servable_age(60 * SECOND), 59 * SECOND);
        assert_eq!(rule(60).servable_age(600 * SECOND), 59 * SECOND);
        assert_eq!(rule(60).servable_age(5 * SECOND), 4500 * SECOND / 1000);
        assert_eq!(rule(10).flight_max(), 9 * SECOND);
        assert_eq!(rule(60).flight_max(), 25 * SECOND);
    }

    #[test]
    fn a_route_without_the_setting_has_no_rule() {
        let mut route = config::Route {
            path: "/a".to_owned(),
            ..config::Route::default()
        };
        assert_eq!(Rule::of(&route, SECOND), None);
        route.cache = Some(Duration::ZERO);
        assert_eq!(Rule::of(&route, SECOND), None);
        route.cache = Some(SECOND);
        assert!(Rule::of(&route, SECOND).is_some_and(|it| it.is_warm()));
        route.path = "/a/{id}".to_owned();
        assert!(Rule::of(&route, SECOND).is_some_and(|it| !it.is_warm()));
    }
}
