//! Whose question goes to the server when many clients ask the same one.
//!
//! Every login gets an answer that was asked for after it came, so that a
//! changed password holds at once, and yet there is one query in flight for a
//! question at most: who comes while it runs waits for the next one, together
//! with all others who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Mutex;

use crate::auth::Credential;
use crate::pool::state::LoginFailure;
use crate::stats::Micros;

/// Questions that are remembered, with the keys derived from their answers.
const MAX_QUESTIONS: usize = 10_000;

/// Everything an answer of `auth_query` depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// Entry of the database that is asked.
    pub(super) database: String,
    /// `auth_user`.
    pub(super) auth_user: String,
    /// `auth_query`.
    pub(super) query: String,
    /// Who is asked for.
    pub(super) user: String,
}

/// A user that the server knows.
#[derive(Debug, Clone)]
pub(super) struct KnownUser {
    /// The name the server gave; the client is logged in under it.
    pub(super) name: Arc<str>,
    /// Its secret, and what has been derived from it.
    pub(super) credential: Arc<Credential>,
}

/// What came of a question.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// This user.
    Known(KnownUser),
    /// There is no such user.
    Unknown,
    /// The query or its answer is of no use; the log says why.
    Useless,
    /// No server could be asked.
    Failing(Arc<LoginFailure>),
}

/// The questions of all logins.
#[derive(Debug, Default)]
pub(super) struct Lookups(DashMap<Question, Arc<Lookup>>);

#[derive(Debug, Default)]
struct Lookup {
    /// Numbers arrivals and queries in the order in which they came.
    order: AtomicU64,
    /// The last answer was a user.
    is_known: AtomicBool,
    /// Held by whoever asks the server.
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    answered: Option<Answered>,
    /// Of the last answer that was a user.
    credential: Option<Arc<Credential>>,
}

#[derive(Debug)]
struct Answered {
    /// The number of the query.
    begun: u64,
    at: Micros,
    answer: Answer,
}

impl Lookups {
    /// The answer to `question`, by `ask` if nobody else's serves. `ask` gets
    /// the credential of the last answer. That there is no such user holds for
    /// `unknown_for`.
    pub(super) async fn answer<F>(
        &self,
        question: &Question,
        now: impl Fn() -> Micros,
        unknown_for: Duration,
        ask: impl FnOnce(Option<Arc<Credential>>) -> F,
    ) -> Answer
    where
        F: Future<Output = Answer>,
    {
        let lookup = self.lookup(question);
        let arrived = lookup.order.fetch_add(1, Ordering::SeqCst);
        let mut last = lookup.last.lock().await;
        if let Some(answered) = &last.answered {
            let serves = arrived < answered.begun || answered.is_unknown(now(), unknown_for);
            if serves {
                return answered.answer.clone();
            }
        }
        let begun = lookup.order.fetch_add(1, Ordering::SeqCst);
        let answer = ask(last.credential.clone()).await;
        if let Answer::Known(known) = &answer {
            last.credential = Some(known.credential.clone());
        }
        lookup
            .is_known
            .store(last.credential.is_some(), Ordering::Relaxed);
        last.answered = Some(Answered {
            begun,
            at: now(),
            answer: answer.clone(),
        });
        answer
    }

    fn lookup(&self, question: &Question) -> Arc<Lookup> {
        if let Some(known) = self.0.get(question) {
            return known.clone();
        }
        if self.0.len() >= MAX_QUESTIONS {
            // Names that clients make up go first.
            let is_asked = |lookup: &Arc<Lookup>| Arc::strong_count(lookup) > 1;
            self.0
                .retain(|_, lookup| is_asked(lookup) || lookup.is_known.load(Ordering::Relaxed));
            if self.0.len() >= MAX_QUESTIONS {
                self.0.retain(|_, lookup| is_asked(lookup));
            }
        }
        self.0.entry(question.clone()).or_default().clone()
    }
}

impl Answered {
    fn is_unknown(&self, now: Micros, for_how_long: Duration) -> bool {
        matches!(self.answer, Answer::Unknown) && now < self.at + for_how_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;
    use std::sync::atomic::AtomicUsize;

    fn question(user: &str) -> Question {
        Question {
            database: "db".into(),
            auth_user: "asker".into(),
            query: "select $1".into(),
            user: user.into(),
        }
    }

    fn known(secret: &str) -> Answer {
        Answer::Known(KnownUser {
            name: "ann".into(),
            credential: Arc::new(Credential::new(Secret::parse(secret.as_bytes()))),
        })
    }

    fn holds(answer: &Answer, secret: &str) -> bool {
        let secret = Secret::parse(secret.as_bytes());
        matches!(answer, Answer::Known(known) if *known.credential.secret() == secret)
    }

    const NOW: fn() -> Micros = || Micros::ZERO;

    #[tokio::test]
    async fn a_hundred_logins_at_once_cost_two_queries_and_never_two_at_a_time() {
        let (running, queries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (lookups, ann) = (Lookups::default(), question("ann"));
        let login = || {
            lookups.answer(&ann, NOW, Duration::ZERO, async |_| {
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                queries.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                known("secret")
            })
        };
        let answers = futures_util::future::join_all((0..100).map(|_| login())).await;
        assert!(answers.iter().all(|answer| holds(answer, "secret")));
        assert!(queries.into_inner() <= 2);
    }

    #[tokio::test]
    async fn who_comes_while_a_query_runs_gets_the_answer_of_a_later_one() {
        let (lookups, ann) = (Lookups::default(), question("ann"));
        let (gate, opened) = tokio::sync::oneshot::channel::<()>();
        let first = lookups.answer(&ann, NOW, Duration::ZERO, async |_| {
            opened.await.expect("opened");
            known("old")
        });
        let second = async {
            tokio::task::yield_now().await;
            let second = lookups.answer(&ann, NOW, Duration::ZERO, async |_| known("new"));
            gate.send(()).expect("the first waits");
            second.await
        };
        let (first, second) = tokio::join!(first, second);
        assert!(holds(&first, "old") && holds(&second, "new"));
    }

    #[tokio::test]
    async fn the_next_takes_over_when_the_one_that_asks_is_gone() {
        let (lookups, ann) = (Lookups::default(), question("ann"));
        let stuck = lookups.answer(&ann, NOW, Duration::ZERO, |_| std::future::pending());
        let gone = tokio::time::timeout(Duration::from_millis(1), stuck).await;
        assert!(gone.is_err());
        let answer = lookups.answer(&ann, NOW, Duration::ZERO, async |_| known("secret"));
        assert!(holds(&answer.await, "secret"));
    }

    #[tokio::test]
    async fn an_unknown_user_is_not_asked_for_again_for_a_while() {
        let (lookups, ann) = (Lookups::default(), question("ann"));
        let keep = Duration::from_secs(1);
        let ask = async |at: u64, answer: Answer| {
            lookups
                .answer(&ann, || Micros(at), keep, async |_| answer)
                .await
        };
        assert!(matches!(ask(0, Answer::Unknown).await, Answer::Unknown));
        let early = ask(999_999, known("secret")).await;
        assert!(matches!(early, Answer::Unknown));
        let late = ask(1_000_000, known("secret")).await;
        assert!(holds(&late, "secret"));
        let unknown_again = ask(1_000_001, Answer::Unknown).await;
        assert!(matches!(unknown_again, Answer::Unknown));
    }

    #[tokio::test]
    async fn the_credential_of_the_last_answer_is_handed_to_the_next() {
        let (lookups, ann) = (Lookups::default(), question("ann"));
        let ask = async |answer: Answer| {
            let mut old = None;
            let asked = lookups.answer(&ann, NOW, Duration::ZERO, async |last| {
                old = last;
                answer
            });
            asked.await;
            old
        };
        assert!(ask(known("secret")).await.is_none());
        assert!(ask(Answer::Useless).await.is_some());
        let old = ask(Answer::Unknown).await.expect("kept");
        assert_eq!(*old.secret(), Secret::parse(b"secret"));
    }

    #[tokio::test]
    async fn made_up_names_do_not_fill_the_memory() {
        let lookups = Lookups::default();
        let ask = async |user: &str, answer: Answer| {
            let question = question(user);
            lookups
                .answer(&question, NOW, Duration::ZERO, async |_| answer)
                .await
        };
        ask("ann", known("secret")).await;
        for number in 0..MAX_QUESTIONS + 10 {
            ask(&number.to_string(), Answer::Unknown).await;
        }
        assert!(lookups.0.len() <= MAX_QUESTIONS);
        assert!(lookups.0.contains_key(&question("ann")));
    }
}
