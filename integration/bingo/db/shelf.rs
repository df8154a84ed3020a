//! Who gets which connection: the rules of Go's `database/sql`, without I/O.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// The connections to one host as far as they are idle, and who waits for one.
pub(super) struct Shelf<C> {
    /// The one used last is on top and is taken first.
    idle: Vec<C>,
    /// Idle, lent and being opened.
    open: usize,
    /// 0 is unlimited.
    max_open: usize,
    max_idle: usize,
    waiting: VecDeque<oneshot::Sender<Grant<C>>>,
}

/// What somebody who asked may use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Grant<C> {
    Connection(C),
    /// Leave to open a connection. Who does not use it says [`Shelf::lost`].
    Room,
}

/// The answer to who asks.
#[derive(Debug)]
pub(super) enum Answer<C> {
    Now(Grant<C>),
    Later(oneshot::Receiver<Grant<C>>),
}

impl<C> Shelf<C> {
    pub(super) fn new(max_open: usize, max_idle: usize) -> Shelf<C> {
        let max_idle = if max_open > 0 {
            max_idle.min(max_open)
        } else {
            max_idle
        };
        Shelf {
            idle: Vec::new(),
            open: 0,
            max_open,
            max_idle,
            waiting: VecDeque::new(),
        }
    }

    /// Somebody needs a connection.
    pub(super) fn ask(&mut self) -> Answer<C> {
        if let Some(connection) = self.idle.pop() {
            return Answer::Now(Grant::Connection(connection));
        }
        if self.max_open == 0 || self.open < self.max_open {
            self.open += 1;
            return Answer::Now(Grant::Room);
        }
        self.waiting.retain(|waiter| !waiter.is_closed());
        let (sender, receiver) = oneshot::channel();
        self.waiting.push_back(sender);
        Answer::Later(receiver)
    }

    /// A good connection comes back. It goes to who waits longest, or on the
    /// shelf, or is returned to be closed.
    pub(super) fn give_back(&mut self, connection: C) -> Option<C> {
        match self.hand_over(Grant::Connection(connection)) {
            Some(Grant::Connection(connection)) if self.idle.len() < self.max_idle => {
                self.idle.push(connection);
                None
            }
            Some(Grant::Connection(connection)) => {
                self.open -= 1;
                Some(connection)
            }
            _ => None,
        }
    }

    /// A connection is no more, or was never opened: its room is free.
    pub(super) fn lost(&mut self) {
        if self.hand_over(Grant::Room).is_some() {
            self.open -= 1;
        }
    }

    /// Gives to who waits longest and still does; the grant if nobody does.
    fn hand_over(&mut self, mut grant: Grant<C>) -> Option<Grant<C>> {
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.send(grant) {
                Ok(()) => return None,
                Err(refused) => grant = refused,
            }
        }
        Some(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(answer: Answer<u8>) -> Grant<u8> {
        match answer {
            Answer::Now(grant) => grant,
            Answer::Later(_) => panic!("has to wait"),
        }
    }

    fn later(answer: Answer<u8>) -> oneshot::Receiver<Grant<u8>> {
        match answer {
            Answer::Now(grant) => panic!("{grant:?}"),
            Answer::Later(receiver) => receiver,
        }
    }

    #[test]
    fn what_exceeds_idle_is_closed() {
        let mut shelf = Shelf::new(0, 2);
        for _ in 0..3 {
            assert_eq!(now(shelf.ask()), Grant::Room);
        }
        let closed: Vec<_> = [1, 2, 3].map(|c| shelf.give_back(c)).into();
        assert_eq!(closed, [None, None, Some(3)]);
        assert_eq!(shelf.open, 2);
    }

    #[test]
    fn no_idle_closes_every_connection() {
        let mut shelf = Shelf::new(1000, 0);
        assert_eq!(now(shelf.ask()), Grant::Room);
        assert_eq!(shelf.give_back(1), Some(1));
        assert_eq!(now(shelf.ask()), Grant::Room);
    }

    #[test]
    fn the_last_one_back_goes_out_first() {
        let mut shelf = Shelf::new(0, 2);
        let _ = (shelf.ask(), shelf.ask());
        let _ = (shelf.give_back(1), shelf.give_back(2));
        assert_eq!(now(shelf.ask()), Grant::Connection(2));
    }

    #[test]
    fn a_full_shelf_makes_wait_in_order() {
        let mut shelf = Shelf::new(1, 0);
        assert_eq!(now(shelf.ask()), Grant::Room);
        let mut first = later(shelf.ask());
        let mut second = later(shelf.ask());
        assert_eq!(shelf.give_back(1), None);
        assert_eq!(first.try_recv(), Ok(Grant::Connection(1)));
        assert!(second.try_recv().is_err());
    }

    #[test]
    fn who_gave_up_is_passed_over() {
        let mut shelf = Shelf::new(1, 1);
        assert_eq!(now(shelf.ask()), Grant::Room);
        drop(later(shelf.ask()));
        let mut second = later(shelf.ask());
        assert_eq!(shelf.give_back(1), None);
        assert_eq!(second.try_recv(), Ok(Grant::Connection(1)));
    }

    #[test]
    fn a_lost_connection_makes_room_for_who_waits() {
        let mut shelf = Shelf::new(1, 1);
        assert_eq!(now(shelf.ask()), Grant::Room);
        let mut waiter = later(shelf.ask());
        shelf.lost();
        assert_eq!(waiter.try_recv(), Ok(Grant::Room));
        shelf.lost();
        assert_eq!(shelf.open, 0);
    }

    /// Takes what was granted: connections lent so far, and leave to open one.
    fn receive(waiters: &mut Vec<oneshot::Receiver<Grant<u8>>>, lent: &mut Vec<u8>) {
        waiters.retain_mut(|waiter| match waiter.try_recv() {
            Ok(Grant::Connection(connection)) => {
                lent.push(connection);
                false
            }
            Ok(Grant::Room) => {
                lent.push(0);
                false
            }
            Err(_) => true,
        });
    }

    proptest::proptest! {
        #[test]
        fn no_connection_is_lost_or_made_up(
            max_open in 0_usize..4,
            max_idle in 0_usize..4,
            steps in proptest::collection::vec(0_u8..4, 0..60),
        ) {
            let mut shelf = Shelf::new(max_open, max_idle);
            let (mut lent, mut waiters) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    0 => match shelf.ask() {
                        Answer::Now(Grant::Connection(connection)) => lent.push(connection),
                        Answer::Now(Grant::Room) => lent.push(0),
                        Answer::Later(waiter) => waiters.push(waiter),
                    },
                    1 => {
                        if let Some(connection) = lent.pop() {
                            shelf.give_back(connection);
                        }
                    }
                    2 => {
                        if lent.pop().is_some() {
                            shelf.lost();
                        }
                    }
                    _ => drop(waiters.pop()),
                }
                receive(&mut waiters, &mut lent);
                assert_eq!(shelf.open, shelf.idle.len() + lent.len());
                assert!(max_open == 0 || shelf.open <= max_open);
                assert!(shelf.idle.len() <= max_idle);
                // Nobody waits while there is something to have.
                assert!(waiters.is_empty() || (shelf.idle.is_empty() && shelf.open == max_open));
            }
        }
    }

    #[test]
    fn idle_never_exceeds_open() {
        let mut shelf = Shelf::new(1, 5);
        assert_eq!(now(shelf.ask()), Grant::Room);
        assert_eq!(shelf.give_back(1), None);
        assert_eq!(shelf.max_idle, 1);
    }
}
