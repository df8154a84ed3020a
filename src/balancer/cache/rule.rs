//! Which answers may be kept, and for how long.

use std::time::{Duration, SystemTime};

use hyper::header::{DATE, ETAG, HeaderMap, LAST_MODIFIED, SET_COOKIE};
use hyper::{StatusCode, Uri};

use super::control::{Control, age, date, expires};
use super::key::Key;
use crate::config;

/// What is left at the end of an answer's life for its way to a slow client.
const MARGIN: Duration = Duration::from_secs(1);

/// Longest life of answers that say it themselves.
const LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long an answer with a tag or a date stays after its life, so that a
/// node need not send it again if it still holds.
const HELD: Duration = Duration::from_secs(60 * 60);

/// How long an answer may be served after its life (RFC 5861).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Grace {
    /// While it is fetched anew (`stale-while-revalidate`).
    pub(super) meanwhile: Duration,
    /// While fetching it fails (`stale-if-error`).
    pub(super) in_need: Duration,
    /// For so long it stays, and is served again only once a node has said
    /// that it still holds.
    pub(super) held: Duration,
}

/// What a route with `cache` or `cache_control` says about its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// No answer is served that is older than this.
    pub(super) max_age: Duration,
    /// Whether answers are kept only for as long as they say themselves.
    pub(super) as_they_say: bool,
    /// Whether it is kept fresh although nobody asks for it.
    pub(super) is_warm: bool,
    /// Time for the origin to answer.
    pub(super) timeout: Duration,
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
        /// What may come after that.
        grace: Grace,
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
        let bound = route.cache.filter(|it| !it.is_zero());
        let as_they_say = route.cache_control;
        let max_age = bound.or(as_they_say.then_some(LIFE_MAX))?;
        Some(Rule {
            max_age,
            as_they_say,
            is_warm: route.cache_warm && !as_they_say && !route.path.contains('{'),
            timeout,
        })
    }

    /// What the answer to this target is found by.
    pub(crate) fn key(&self, target: &Uri) -> Key {
        Key::of(target)
    }

    /// Whether a target may have several answers, for what requests have in the
    /// fields that they vary with.
    pub(super) fn may_select(&self) -> bool {
        self.as_they_say
    }

    /// Whether an answer whose life has ended may live on because a node says
    /// that it still holds. Not where the route says how old it may be.
    pub(super) fn may_revalidate(&self) -> bool {
        self.as_they_say && self.max_age == LIFE_MAX
    }

    /// No answer is served that is older than this.
    pub(crate) fn max_age(&self) -> Duration {
        self.max_age
    }

    /// Whether answers are kept only for as long as they say themselves.
    pub(crate) fn is_as_they_say(&self) -> bool {
        self.as_they_say
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

    /// What may be done with an answer of this head that came at `now` (RFC
    /// 9111, 3 and 4.2). Where the route has said that its answers may be kept,
    /// they can only say less.
    pub(super) fn judge(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Verdict {
        let targeted = match self.as_they_say {
            true => Control::targeted(headers),
            false => None,
        };
        let is_targeted = targeted.is_some();
        let control = targeted.unwrap_or_else(|| Control::read(headers));
        if headers.contains_key(SET_COOKIE) || control.is_private {
            return Verdict::Private;
        }
        match self.as_they_say {
            true if is_kept(status) => {}
            // It was asked for without what a client has to show.
            true if !status.is_server_error() => return Verdict::Private,
            false if status == StatusCode::OK => {}
            _ => return Verdict::Share,
        }
        let mut age = age(headers);
        let mut life = control.max_age;
        if self.as_they_say {
            let date = date(headers, &DATE);
            let apparent = date.and_then(|it| now.duration_since(it).ok());
            age = age.max(apparent.unwrap_or_default());
            if !is_targeted {
                life = life.or_else(|| expires(headers, date.unwrap_or(now)));
            }
        }
        let life = match (life, self.as_they_say) {
            (Some(life), _) => life.min(self.max_age),
            (None, false) => self.max_age,
            // Nobody guesses.
            (None, true) => return Verdict::Private,
        };
        if age >= self.servable_age(life) {
            return Verdict::Private;
        }
        let mut grace = Grace::default();
        if self.as_they_say && !control.must_revalidate {
            let left = self.max_age - life;
            grace.meanwhile = control.stale_while_revalidate.min(left);
            grace.in_need = control.stale_if_error.min(left);
        }
        if self.may_revalidate() && is_named(headers) {
            grace.held = HELD;
        }
        Verdict::Keep { age, life, grace }
    }
}

/// Whether an answer of this status may be kept if it says for how long (RFC
/// 9111, 3). Not a part of one; not what is about who asks, or about the
/// moment; and not what a sick node says.
fn is_kept(status: StatusCode) -> bool {
    match status.as_u16() {
        206 | 304 | 401 | 403 | 407 | 408 | 421 | 425 | 429 => false,
        other => (200..500).contains(&other),
    }
}

/// Whether a node can be asked whether it still holds.
pub(super) fn is_named(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    const SECOND: Duration = Duration::from_secs(1);

    /// A rule of a minute.
    pub(in super::super) fn rule(max_age: u64) -> Rule {
        Rule {
            max_age: Duration::from_secs(max_age),
            as_they_say: false,
            is_warm: true,
            timeout: Duration::from_secs(25),
        }
    }

    fn judge(status: u16, rows: &[(&'static str, &'static str)]) -> Verdict {
        judge_by(rule(60), status, rows)
    }

    fn judge_by(rule: Rule, status: u16, rows: &[(&'static str, &'static str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        rule.judge(status, &headers, date_of("Sun, 06 Nov 1994 08:49:37 GMT"))
    }

    fn date_of(text: &str) -> SystemTime {
        httpdate::parse_http_date(text).expect("a date")
    }

    fn keep(age: u64, life: u64) -> Verdict {
        keep_longer(age, life, 0, 0)
    }

    fn keep_longer(age: u64, life: u64, meanwhile: u64, in_need: u64) -> Verdict {
        Verdict::Keep {
            age: Duration::from_secs(age),
            life: Duration::from_secs(life),
            grace: Grace {
                meanwhile: Duration::from_secs(meanwhile),
                in_need: Duration::from_secs(in_need),
                held: Duration::ZERO,
            },
        }
    }

    #[test]
    fn an_answer_that_speaks_for_itself_is_kept_as_long_as_it_says() {
        let spoken = Rule {
            as_they_say: true,
            ..rule(1000)
        };
        let date = ("date", "Sun, 06 Nov 1994 08:49:30 GMT");
        for (status, rows, expected) in [
            (200, &[("cache-control", "max-age=100")][..], keep(0, 100)),
            (404, &[("cache-control", "max-age=100")], keep(0, 100)),
            (200, &[("cache-control", "max-age=5000")], keep(0, 1000)),
            (200, &[("cache-control", "max-age=100"), date], keep(7, 100)),
            (
                200,
                &[("cache-control", "max-age=100"), date, ("age", "20")],
                keep(20, 100),
            ),
            (
                200,
                &[("expires", "Sun, 06 Nov 1994 08:50:30 GMT"), date],
                keep(7, 60),
            ),
            (
                200,
                &[
                    ("cache-control", "max-age=100"),
                    ("expires", "Sun, 06 Nov 1994 08:50:30 GMT"),
                ],
                keep(0, 100),
            ),
            (
                200,
                &[(
                    "cache-control",
                    "max-age=100, stale-while-revalidate=30, stale-if-error=5000",
                )],
                keep_longer(0, 100, 30, 900),
            ),
            (
                200,
                &[(
                    "cache-control",
                    "max-age=100, must-revalidate, stale-if-error=50",
                )],
                keep(0, 100),
            ),
            (
                200,
                &[("cache-control", "s-maxage=100, stale-if-error=50")],
                keep(0, 100),
            ),
        ] {
            assert_eq!(judge_by(spoken, status, rows), expected, "{rows:?}");
        }
        for rows in [
            &[][..],
            &[date],
            &[("expires", "0")],
            &[("expires", "Sun, 06 Nov 1994 08:49:30 GMT"), date],
            &[("cache-control", "stale-while-revalidate=30")],
        ] {
            assert_eq!(judge_by(spoken, 200, rows), Verdict::Private, "{rows:?}");
        }
        let rows = [("cache-control", "max-age=100")];
        for status in [203, 204, 299, 302, 307, 400] {
            assert_eq!(judge_by(spoken, status, &rows), keep(0, 100), "{status}");
        }
        for status in [206, 304, 401, 403, 429] {
            let verdict = judge_by(spoken, status, &rows);
            assert_eq!(verdict, Verdict::Private, "{status}");
        }
        for status in [500, 503] {
            assert_eq!(judge_by(spoken, status, &rows), Verdict::Share, "{status}");
        }
    }

    #[test]
    fn what_is_said_to_caches_before_nodes_takes_the_place_of_the_rest() {
        let spoken = Rule {
            as_they_say: true,
            ..rule(1000)
        };
        for (rows, expected) in [
            (
                &[
                    ("cache-control", "no-store"),
                    ("cdn-cache-control", "max-age=100"),
                ][..],
                keep(0, 100),
            ),
            (
                &[
                    ("cache-control", "max-age=100"),
                    ("cdn-cache-control", "max-age=9, x"),
                ],
                keep(0, 9),
            ),
            (
                &[
                    ("cache-control", "max-age=100"),
                    ("cdn-cache-control", "private"),
                ],
                Verdict::Private,
            ),
            (
                &[
                    ("cache-control", "max-age=100"),
                    ("cdn-cache-control", "private=?0"),
                ],
                Verdict::Private,
            ),
            (
                &[
                    ("expires", "Sun, 06 Nov 1994 08:50:30 GMT"),
                    ("cdn-cache-control", "x"),
                ],
                Verdict::Private,
            ),
            (
                &[
                    ("cache-control", "max-age=100"),
                    ("cdn-cache-control", "No-Store"),
                ],
                keep(0, 100),
            ),
        ] {
            assert_eq!(judge_by(spoken, 200, rows), expected, "{rows:?}");
        }
        let rows = [
            ("cache-control", "no-store"),
            ("cdn-cache-control", "max-age=9"),
        ];
        assert_eq!(judge(200, &rows), Verdict::Private, "it can only say less");
    }

    #[test]
    fn an_answer_with_a_tag_or_a_date_stays_to_be_asked_about_unless_its_age_is_bounded() {
        let spoken = |max_age| Rule {
            max_age,
            as_they_say: true,
            ..rule(0)
        };
        let held = |rule, row| {
            let rows = [("cache-control", "max-age=100, must-revalidate"), row];
            match judge_by(rule, 200, &rows) {
                Verdict::Keep { grace, .. } => grace.held,
                other => panic!("{other:?}"),
            }
        };
        let (free, bounded) = (spoken(LIFE_MAX), spoken(1000 * SECOND));
        let tag = ("etag", "\"a\"");
        assert_eq!(held(free, tag), HELD);
        assert_eq!(held(free, ("last-modified", "x")), HELD);
        assert_eq!(held(free, ("x-other", "a")), Duration::ZERO);
        assert_eq!(held(bounded, tag), Duration::ZERO);
        assert_eq!(held(rule(1000), tag), Duration::ZERO);
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
            (&[("age", "12, 30")], keep(12, 60)),
            (&[("age", "12"), ("age", "30")], keep(12, 60)),
            (&[("age", "x, 30")], keep(0, 60)),
            (
                &[("cache-control", "a=\"x, max-age=1\", max-age=30")],
                keep(0, 30),
            ),
            (&[("cache-control", "a=\"\\\", max-age=1\"")], keep(0, 60)),
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
            // Whose quote does not end, or holds it.
            ("cache-control", "a=\"x, no-store"),
            ("cache-control", "a=\"x, private\""),
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
        route.cache = None;
        route.cache_control = true;
        let rule = Rule::of(&route, SECOND).expect("its answers say");
        assert_eq!((rule.max_age, rule.is_warm), (LIFE_MAX, false));
    }
}
