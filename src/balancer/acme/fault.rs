//! Why there is no certificate, in words for the log.

use std::fmt;
use std::io;

use super::plan::Cause;

/// Longest text of an authority that is logged, in characters.
const TEXT_MAX: usize = 400;

/// What went wrong with an order.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    /// Without a full stop.
    what: String,
    /// What to do about it, as a sentence.
    pub(super) remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Fault {
    /// The authority did not answer, or not as one.
    pub(super) fn unreached(why: &dyn fmt::Display) -> Fault {
        Fault {
            cause: Cause::Unreached,
            what: format!("the authority cannot be asked: {}", printable(why)),
            remedy: "See that acme_directory is right and can be reached from here, and that \
                     acme_ca_file, if the system does not trust the authority, has its \
                     certificates."
                .to_owned(),
        }
    }

    /// The authority said no.
    pub(super) fn refused(why: &dyn fmt::Display) -> Fault {
        Fault {
            cause: Cause::Refused,
            what: format!("the authority refuses: {}", printable(why)),
            remedy: "See what it says; nothing is asked of it for a while.".to_owned(),
        }
    }

    /// The authority could not see that this name is ours.
    pub(super) fn rejected(name: &str, challenge: &str, why: &dyn fmt::Display) -> Fault {
        let (port, listeners) = match challenge {
            "http-01" => (80, "listen"),
            _ => (443, "https_listen"),
        };
        Fault {
            cause: Cause::Refused,
            what: format!(
                "the authority does not believe in {name}: {}",
                printable(why)
            ),
            remedy: format!(
                "See that {name} leads to this machine alone, and that its port {port} can be \
                 reached from outside and leads to {listeners}."
            ),
        }
    }

    /// Something cannot be kept.
    pub(super) fn unkept(error: &io::Error) -> Fault {
        Fault {
            cause: Cause::Refused,
            what: format!("what belongs to it cannot be kept: {error}"),
            remedy: "Give a state_dir this user can write to.".to_owned(),
        }
    }

    /// What was issued is not what was ordered.
    pub(super) fn unfit(why: &dyn fmt::Display) -> Fault {
        Fault {
            cause: Cause::Refused,
            what: format!(
                "the certificate that was issued cannot be used: {}",
                printable(why)
            ),
            remedy: "See that the clock is right, and ask the authority.".to_owned(),
        }
    }
}

impl From<instant_acme::Error> for Fault {
    fn from(error: instant_acme::Error) -> Fault {
        match &error {
            instant_acme::Error::Api(problem) => Fault::refused(problem),
            _ => Fault::unreached(&error),
        }
    }
}

/// On one line, and not too long.
fn printable(text: &dyn fmt::Display) -> String {
    let text = text.to_string();
    let plain = text
        .chars()
        .map(|it| if it.is_control() { ' ' } else { it });
    plain.take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_says_is_one_line_of_bounded_length() {
        let text = format!("a\nb\x1b[1m{}", "x".repeat(10_000));
        let what = Fault::refused(&text).to_string();
        assert!(what.contains("a b [1mxxx"), "{what}");
        assert!(what.chars().count() < TEXT_MAX + 100 && !what.contains(char::is_control));
    }
}
