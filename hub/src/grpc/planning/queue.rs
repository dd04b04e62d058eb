//! Whose plan is made next, and who is sent away: plans cost a good part of a second of a core each, and whoever may read may ask for
//! them. So few are made at once, few wait, fewer for one caller, and what operators of whole clusters ask for stands in a lane of its
//! own, behind no reader. Must not know what is planned. Tests are at the end of the file.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::grpc::errors::ApiError;

/// Plans that are made for readers at once, over all connections. One takes a good part of a second of a core with 100,000
/// endpoints, and the engine wants cores too.
const MOST_OF_READERS: usize = 2;
/// Forecasts that are made for operators at once, beside those.
const MOST_OF_OPERATORS: usize = 1;
/// Plans under way and waiting in one lane. The last of them waits for 16 / 2 plans of a second at the most: within the 10 s that
/// yardctl gives a call.
const MOST_IN_LANE: usize = 16;
/// Of them for one caller while others may need the rest: one that is looked at, and the next.
const MOST_OF_CALLER: usize = 2;
/// Up to here nobody is counted: twenty runners with one token are one caller, and a lane that is half empty has room for them.
const FREE_FOR_ALL: usize = MOST_IN_LANE / 2;

/// Who stands behind whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Plans and previews: for everybody who may read, or try something.
    Readers,
    /// What the loss of a cluster would do: for operators of the whole cluster.
    Operators,
}

/// Enough wait already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Of this caller.
    #[error(
        "{who} has {own} plans under way at this replica, as many as one caller may have while so many wait; wait for their answers, \
         and ask for one after the other"
    )]
    Caller {
        /// As in the audit log.
        who: String,
        /// Plans under way and waiting.
        own: usize,
    },
    /// Of all.
    #[error(
        "{MOST_IN_LANE} plans wait at this replica, the most that it takes; ask again in a moment, or at another replica"
    )]
    All,
}

impl Busy {
    /// When to ask again.
    pub fn seconds(&self) -> u64 {
        match self {
            // About as long as one plan takes.
            Busy::Caller { .. } | Busy::All => 1,
        }
    }
}

struct Places {
    room: Arc<Semaphore>,
    callers: Mutex<BTreeMap<String, usize>>,
}

impl Places {
    fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Semaphore::new(at_once)), callers: Mutex::default() })
    }

    fn callers(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        // No user of the lock can panic half way through a change.
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Clone)]
pub struct Queue {
    readers: Arc<Places>,
    operators: Arc<Places>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { readers: Places::new(MOST_OF_READERS), operators: Places::new(MOST_OF_OPERATORS) }
    }
}

/// A place among those that wait or are served; given up when dropped, also by a caller who goes away.
struct Place {
    places: Arc<Places>,
    who: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut callers = self.places.callers();
        if let Some(count) = callers.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                callers.remove(&self.who);
            }
        }
    }
}

/// The right to make one plan now.
pub struct Turn {
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

impl Queue {
    /// Waits for the caller's turn.
    ///
    /// # Errors
    /// [`Busy`] at once when enough wait, [`ApiError::Shutdown`] when nothing is started any more.
    pub async fn turn(&self, lane: Lane, who: &str) -> Result<Turn, ApiError> {
        let places = match lane {
            Lane::Readers => &self.readers,
            Lane::Operators => &self.operators,
        };
        let place = enter(places, who)?;
        let permit = Arc::clone(&places.room).acquire_owned().await.map_err(|_| ApiError::Shutdown)?;
        Ok(Turn { _permit: permit, _place: place })
    }
}

fn enter(places: &Arc<Places>, who: &str) -> Result<Place, Busy> {
    let mut callers = places.callers();
    let own = callers.get(who).copied().unwrap_or_default();
    let all: usize = callers.values().sum();
    if own >= MOST_OF_CALLER && all >= FREE_FOR_ALL {
        return Err(Busy::Caller { who: who.to_owned(), own });
    }
    if all >= MOST_IN_LANE {
        return Err(Busy::All);
    }
    callers.insert(who.to_owned(), own + 1);
    drop(callers);
    Ok(Place { places: Arc::clone(places), who: who.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin};

    use futures::poll;

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Result<Turn, ApiError>>>>;

    fn comes(queue: &Queue, lane: Lane, who: &str) -> Waiting {
        let (queue, who) = (queue.clone(), who.to_owned());
        Box::pin(async move { queue.turn(lane, &who).await })
    }

    /// Comes and gets a turn at once, waits, or is sent away.
    async fn tries(queue: &Queue, lane: Lane, who: &str) -> Result<Result<Turn, Waiting>, ApiError> {
        let mut waiting = comes(queue, lane, who);
        match poll!(&mut waiting) {
            std::task::Poll::Ready(Ok(turn)) => Ok(Ok(turn)),
            std::task::Poll::Ready(Err(error)) => Err(error),
            std::task::Poll::Pending => Ok(Err(waiting)),
        }
    }

    #[tokio::test]
    async fn an_operator_waits_for_no_reader_however_many_there_are() {
        let queue = Queue::default();
        let (mut turns, mut waiting, mut refused) = (Vec::new(), Vec::new(), 0);
        for i in 0..200 {
            match tries(&queue, Lane::Readers, &format!("viewer-{}", i / 4)).await {
                Ok(Ok(turn)) => turns.push(turn),
                Ok(Err(wait)) => waiting.push(wait),
                Err(error) => {
                    assert!(matches!(error, ApiError::Busy(_)), "{error}");
                    refused += 1;
                }
            }
        }
        assert_eq!((turns.len(), waiting.len(), refused), (2, 14, 184));
        let forecast = tries(&queue, Lane::Operators, "operator").await.unwrap().ok().expect("a turn at once");
        assert!(tries(&queue, Lane::Operators, "other").await.unwrap().is_err(), "one after the other");
        drop(forecast);
        assert!(tries(&queue, Lane::Operators, "other").await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn one_caller_has_half_of_a_lane_and_the_others_find_the_other_half() {
        let queue = Queue::default();
        let first = tries(&queue, Lane::Readers, "ann").await.unwrap().ok().expect("a turn");
        let second = tries(&queue, Lane::Readers, "ann").await.unwrap().ok().expect("a turn");
        let mut anns = Vec::new();
        for _ in 2..FREE_FOR_ALL {
            anns.push(tries(&queue, Lane::Readers, "ann").await.unwrap().err().expect("ann waits"));
        }
        let over = tries(&queue, Lane::Readers, "ann").await.err().expect("one more is refused");
        assert!(matches!(&over, ApiError::Busy(Busy::Caller { who, own: 8 }) if who == "ann"));
        assert!(over.to_string().contains("ann has 8 plans under way"), "{over}");
        let mut bobs = Vec::new();
        for _ in 0..MOST_OF_CALLER {
            bobs.push(tries(&queue, Lane::Readers, "bob").await.unwrap().err().expect("bob waits"));
        }
        assert!(tries(&queue, Lane::Readers, "bob").await.is_err(), "two of bob's while the lane is half full");
        // Those who go away while waiting leave no trace, and neither do those who were served.
        drop((first, anns));
        let bob = bobs.remove(0).await.expect("bob's turn");
        drop((second, bob, bobs));
        assert!(queue.readers.callers().is_empty());
        assert_eq!(queue.readers.room.available_permits(), MOST_OF_READERS);
    }
}
