//! A deadline that moves with every sign of life.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Expires when nothing happened for a while. Costs nothing until somebody
/// waits, and a sign of life costs a store: the timer underneath is moved only
/// when it fires too early.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    limit: Duration,
    /// Since when somebody waits; none after a sign of life.
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    pub(crate) fn new(limit: Duration) -> IdleTimer {
        IdleTimer {
            limit,
            since: None,
            sleep: None,
        }
    }

    /// A sign of life.
    pub(crate) fn progress(&mut self) {
        self.since = None;
    }

    /// Ready once `limit` passed since the first call after the last sign of
    /// life, and at `latest` in any case.
    pub(crate) fn poll_expired(
        &mut self,
        latest: Option<Instant>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let expires = *self.since.get_or_insert(now) + self.limit;
        let deadline = latest.map_or(expires, |latest| latest.min(expires));
        poll_deadline(&mut self.sleep, deadline, now, cx)
    }
}

/// Ready at the deadline. Keeps the sleep for the next deadline, and leaves it
/// alone while it fires before that.
pub(crate) fn poll_deadline(
    sleep: &mut Option<Pin<Box<Sleep>>>,
    deadline: Instant,
    now: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if now >= deadline {
        return Poll::Ready(());
    }
    let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
    if sleep.deadline().into_std() > deadline {
        sleep.as_mut().reset(deadline.into());
    }
    loop {
        ready!(sleep.as_mut().poll(cx));
        if sleep.deadline().into_std() >= deadline {
            return Poll::Ready(());
        }
        sleep.as_mut().reset(deadline.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[tokio::test]
    async fn it_expires_only_after_a_whole_limit_without_a_sign_of_life() {
        let limit = Duration::from_secs(10);
        let mut timer = IdleTimer::new(limit);
        let mut now = Instant::now();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..5 {
            assert!(timer.poll_expired(None, now, &mut cx).is_pending());
            now += limit * 2;
            timer.progress();
        }
        assert!(timer.poll_expired(None, now, &mut cx).is_pending());
        assert!(
            timer
                .poll_expired(None, now + limit / 2, &mut cx)
                .is_pending()
        );
        assert!(timer.poll_expired(Some(now), now, &mut cx).is_ready());
        assert!(timer.poll_expired(None, now + limit, &mut cx).is_ready());
    }

    #[tokio::test]
    async fn an_earlier_deadline_moves_a_later_sleep() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let mut sleep = None;
        std::future::poll_fn(|cx| {
            assert!(poll_deadline(&mut sleep, now + minute, now, cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let soon = now + Duration::from_millis(20);
        std::future::poll_fn(|cx| poll_deadline(&mut sleep, soon, now, cx)).await;
        assert!(now.elapsed() < minute);
    }
}
