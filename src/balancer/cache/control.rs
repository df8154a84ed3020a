//! What an answer says of how old it is and how old it may become.

use std::time::{Duration, SystemTime};

use hyper::header::{AGE, CACHE_CONTROL, EXPIRES, HeaderMap, HeaderName, HeaderValue};

use super::targeted;
use crate::config;

/// Directives of answers that are not for everybody, or not to be kept.
static FORBID: [&str; 3] = ["no-store", "no-cache", "private"];

/// What `Cache-Control` of an answer says to a shared cache.
#[derive(Default)]
pub(super) struct Control {
    /// It is not for everybody, or not to be kept.
    pub(super) is_private: bool,
    /// `s-maxage`, else `max-age`.
    pub(super) max_age: Option<Duration>,
    /// It is not served after its life. `s-maxage` says that too.
    pub(super) must_revalidate: bool,
    pub(super) stale_while_revalidate: Duration,
    pub(super) stale_if_error: Duration,
}

impl Control {
    pub(super) fn read(headers: &HeaderMap) -> Control {
        let mut control = Control::default();
        // What forbids is heeded wherever it stands, should quotes not match,
        // and what cannot be read may be that.
        let texts = headers.get_all(CACHE_CONTROL).iter();
        let texts = texts.map(|it| it.to_str().unwrap_or("private"));
        let mut all_words = texts.flat_map(|it| it.split(','));
        control.is_private = all_words.any(|word| {
            let (name, _) = word.split_once('=').unwrap_or((word, ""));
            let name = name.trim().trim_matches('"').to_ascii_lowercase();
            FORBID.contains(&name.as_str())
        });
        let directives = words(headers, &CACHE_CONTROL).into_iter().map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.trim().to_ascii_lowercase(), value.trim_matches('"'))
        });
        control.hear(directives);
        control
    }

    /// What it says to caches in front of nodes alone; that takes the place of
    /// all else (RFC 9213).
    pub(super) fn targeted(headers: &HeaderMap) -> Option<Control> {
        let directives = targeted::directives(headers)?;
        let heard = directives.iter().filter(|(_, value)| value != "?0");
        let mut control = Control::default();
        let mut names = heard.clone().map(|(name, _)| name.as_str());
        control.is_private = names.any(|it| FORBID.contains(&it));
        control.hear(heard.map(|(name, value)| (name.clone(), value.as_str())));
        Some(control)
    }

    fn hear<'a>(&mut self, directives: impl Iterator<Item = (String, &'a str)>) {
        let (mut shared, mut all) = (None, None);
        for (name, value) in directives {
            // What is no number is stale at once (RFC 9111, 4.2.1).
            let age = seconds(value.as_bytes()).unwrap_or_default();
            match name.as_str() {
                "s-maxage" => shared = least(shared, age),
                "max-age" => all = least(all, age),
                "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
                "stale-while-revalidate" => self.stale_while_revalidate = age,
                "stale-if-error" => self.stale_if_error = age,
                _ => {}
            }
        }
        self.must_revalidate |= shared.is_some();
        self.max_age = shared.or(all);
    }
}

/// The life that `Expires` gives an answer of this date; a date that is none
/// is over (RFC 9111, 5.3).
pub(super) fn expires(headers: &HeaderMap, date: SystemTime) -> Option<Duration> {
    headers.get(EXPIRES)?;
    let end = self::date(headers, &EXPIRES);
    let life = end.and_then(|it| it.duration_since(date).ok());
    Some(life.unwrap_or_default())
}

/// How old an answer was when it came, by its sender's word. Of several, the
/// first counts; without digits it is no age; more digits than fit are a great
/// age (RFC 9111, 5.1).
pub(super) fn age(headers: &HeaderMap) -> Duration {
    let said = headers.get(AGE).map(HeaderValue::as_bytes);
    let first = said.and_then(|it| it.split(|byte| *byte == b',').next());
    first.and_then(seconds).unwrap_or_default()
}

/// The date in this field, if there is one and it is one.
pub(super) fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut dates = headers.get_all(name).iter();
    let (Some(date), None) = (dates.next(), dates.next()) else {
        return None;
    };
    httpdate::parse_http_date(date.to_str().ok()?).ok()
}

fn least(before: Option<Duration>, age: Duration) -> Option<Duration> {
    Some(before.map_or(age, |before| before.min(age)))
}

/// What stands between the commas of a field, not counting those in quotes.
pub(super) fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    let texts = values.map(|it| it.to_str().unwrap_or("*"));
    let words = texts.flat_map(|text| {
        let (mut is_quoted, mut is_escaped) = (false, false);
        text.split(move |it: char| {
            let was_escaped = std::mem::take(&mut is_escaped);
            match it {
                '"' if !was_escaped => is_quoted = !is_quoted,
                '\\' if is_quoted => is_escaped = !was_escaped,
                _ => {}
            }
            it == ',' && !is_quoted
        })
    });
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
