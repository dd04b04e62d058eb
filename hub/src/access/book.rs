//! What the store says about service tokens and revoked certificates, in memory, as every replica keeps it: no call waits for the
//! database to find out who calls. The store counts its changes; the count is looked at each second, and sooner when somebody shows a
//! token that is not in the book, since it may have been made a moment ago by another replica. While the store is away the last book
//! stays in force: tokens that were good stay so, new ones have to wait.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use jiff::Timestamp;
use switchyard_core::access::tokens::Token;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::store::{
    Store, StoreError,
    access::{AccessBook, BookedToken},
};

/// A revoked proof ends within two seconds: one until it is seen, and time for the rest.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The book is read anew after so many looks even when nothing was counted: certificates that are issued are not, and they say until when
/// an authority is trusted that was replaced.
const LOOKS_UNTIL_READ: u64 = 5;
/// Between two tries to read the first book.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks that unknown tokens ask for.
const LOOK_EVERY_UNKNOWN: Duration = Duration::from_millis(250);
/// The longest that a call waits for a look.
const WAIT: Duration = Duration::from_secs(3);
/// Calls that wait for a look at a time.
const MOST_WAITING: usize = 256;
/// How often it is written which tokens were used.
const USED_EVERY: Duration = Duration::from_secs(60);

/// Why a service token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No such id: never there, over, or revoked.
    #[error("there is no service token of this id that is good: it has ended, was revoked, or was never made")]
    Unknown,
    /// The secret.
    #[error("the secret of the service token is another one")]
    Secret,
    /// Over.
    #[error("the service token has ended")]
    Over,
    /// The store is away, and the token is not in the last book.
    #[error("the service token is not in the book, and the database cannot be asked for a newer one")]
    Away,
}

/// The book, and how fresh it is.
#[derive(Clone, Debug)]
pub struct Held {
    /// As it was read last.
    pub book: Arc<AccessBook>,
    looks: u64,
    away: bool,
    known_at: Instant,
}

/// The book of this replica. Clones are one.
#[derive(Clone)]
pub struct Books(Arc<Inner>);

struct Inner {
    held: watch::Sender<Held>,
    wanted: Notify,
    waiting: Semaphore,
    /// Ids of tokens that were used since it was last written; all of them were in the book, so it is bounded.
    used: Mutex<BTreeSet<String>>,
}

impl Books {
    /// Reads the first book, and waits for a store that does not answer.
    ///
    /// # Errors
    /// [`StoreError`] when the store answers something else than a book.
    pub async fn read(store: &Store) -> Result<Self, StoreError> {
        let mut told = false;
        loop {
            match store.access_book().await {
                // It may go at any moment, also right after it was reached.
                Err(error) if error.is_unavailable() => {
                    if !told {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(
                            error,
                            "tokens and revocations cannot be read yet; trying again until the store answers"
                        );
                    }
                    told = true;
                    sleep(PAUSE).await;
                }
                book => return Ok(Self::of(book?)),
            }
        }
    }

    fn of(book: AccessBook) -> Self {
        let held = Held { book: Arc::new(book), looks: 0, away: false, known_at: Instant::now() };
        let (held, wanted, waiting) = (watch::Sender::new(held), Notify::new(), Semaphore::new(MOST_WAITING));
        Self(Arc::new(Inner { held, wanted, waiting, used: Mutex::default() }))
    }

    /// The book that is in force.
    pub fn current(&self) -> Arc<AccessBook> {
        Arc::clone(&self.0.held.borrow().book)
    }

    /// Sees each new book.
    pub fn subscribe(&self) -> watch::Receiver<Held> {
        self.0.held.subscribe()
    }

    /// The service token that was shown, when it is good.
    ///
    /// # Errors
    /// [`TokenError`]
    pub async fn token(&self, shown: &Token, now: Timestamp) -> Result<BookedToken, TokenError> {
        let held = self.0.held.borrow().clone();
        let known = match held.book.tokens.get(&shown.id) {
            Some(known) => known.clone(),
            None => self.newer(held.looks).await?.tokens.get(&shown.id).ok_or(TokenError::Unknown)?.clone(),
        };
        if verify_slices_are_equal(&known.hash, &shown.hash()).is_err() {
            return Err(TokenError::Secret);
        }
        if now >= known.expires_at {
            return Err(TokenError::Over);
        }
        let mut used = self.0.used.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.contains(&known.id) {
            used.insert(known.id.clone());
        }
        Ok(known)
    }

    /// The book after another look.
    async fn newer(&self, looks: u64) -> Result<Arc<AccessBook>, TokenError> {
        let _place = self.0.waiting.try_acquire().map_err(|_| TokenError::Away)?;
        let mut held = self.0.held.subscribe();
        self.0.wanted.notify_one();
        // One that is under way may have begun before the token was made.
        let found =
            timeout(WAIT, held.wait_for(|held| held.looks > looks + 1 || (held.looks > looks && held.away))).await;
        match found {
            Ok(Ok(held)) if !held.away => Ok(Arc::clone(&held.book)),
            _ => Err(TokenError::Away),
        }
    }

    /// One look: the count, and the book when it is another one or was not read for a while.
    async fn look(&self, store: &Store) {
        let (version, was_away, reads) = {
            let held = self.0.held.borrow();
            (held.book.version, held.away, held.looks.wrapping_add(1).is_multiple_of(LOOKS_UNTIL_READ))
        };
        let began = Instant::now();
        let read = async {
            if !reads && store.access_version().await? == version {
                return Ok(None);
            }
            store.access_book().await.map(Some)
        };
        let read: Result<Option<AccessBook>, StoreError> = read.await;
        match read {
            Ok(new) => {
                if was_away {
                    tracing::info!("the store answers again: tokens and revocations are up to date");
                }
                self.0.held.send_modify(|held| {
                    (held.looks, held.away, held.known_at) = (held.looks + 1, false, began);
                    if let Some(new) = new {
                        held.book = Arc::new(new);
                    }
                });
            }
            Err(error) => {
                if !was_away {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(
                        error,
                        "tokens and revocations cannot be read from the store; those that are known stay in force"
                    );
                }
                self.0.held.send_modify(|held| (held.looks, held.away) = (held.looks + 1, true));
            }
        }
    }

    /// Since it was last known that the book is up to date.
    pub(super) fn age(&self) -> Duration {
        self.0.held.borrow().known_at.elapsed()
    }

    /// Looks until the token, and calls `looked` after each look.
    pub(super) async fn run(self, store: Store, mut looked: impl FnMut(), shutdown: CancellationToken) {
        let mut write_at = Instant::now() + USED_EVERY;
        loop {
            let began = Instant::now();
            if shutdown.run_until_cancelled(self.look(&store)).await.is_none() {
                break;
            }
            looked();
            if Instant::now() >= write_at {
                write_at = Instant::now() + USED_EVERY;
                if shutdown.run_until_cancelled(self.write_used(&store)).await.is_none() {
                    break;
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep_until(began + LOOK_EVERY) => {}
                () = self.0.wanted.notified() => sleep_until(began + LOOK_EVERY_UNKNOWN).await,
            }
        }
        // A minute more or less: when the store does not take it at once, it is let go.
        drop(timeout(Duration::from_secs(1), self.write_used(&store)).await);
    }

    async fn write_used(&self, store: &Store) {
        let used = mem::take(&mut *self.0.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let ids: Vec<String> = used.into_iter().collect();
        if let Err(error) = store.token_used(&ids, Timestamp::now()).await {
            // For people who look for tokens that nobody needs: the next use is noted again.
            tracing::debug!(%error, "the last use of service tokens was not noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::access::{Grants, tokens::TokenKind};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn books(token: &Token) -> Books {
        let booked = BookedToken {
            id: token.id.clone(),
            hash: token.hash(),
            name: "ci".to_owned(),
            grants: Grants::none(),
            expires_at: at(100),
        };
        Books::of(AccessBook { tokens: [(token.id.clone(), booked)].into(), ..AccessBook::default() })
    }

    #[tokio::test]
    async fn a_token_is_good_with_its_secret_until_its_end() {
        let token = Token::new(TokenKind::Service, [1; 8], [2; 32]);
        let books = books(&token);
        assert_eq!(books.token(&token, at(99)).await.unwrap().name, "ci");
        assert_eq!(books.token(&token, at(100)).await, Err(TokenError::Over));
        let guessed = Token::new(TokenKind::Service, [1; 8], [3; 32]);
        assert_eq!(books.token(&guessed, at(1)).await, Err(TokenError::Secret));
    }

    /// What the next looks find, one after the other: whether the store is away.
    async fn looks(books: &Books, found: &[bool]) {
        for away in found {
            books.0.wanted.notified().await;
            books.0.held.send_modify(|held| (held.looks, held.away) = (held.looks + 1, *away));
            books.0.wanted.notify_one();
        }
    }

    #[tokio::test]
    async fn an_unknown_token_waits_for_the_store_to_say_so() {
        let books = books(&Token::new(TokenKind::Service, [1; 8], [2; 32]));
        let unknown = Token::new(TokenKind::Service, [9; 8], [2; 32]);
        let (found, ()) = tokio::join!(books.token(&unknown, at(1)), looks(&books, &[false, false]));
        assert_eq!(found, Err(TokenError::Unknown));
        let (found, ()) = tokio::join!(books.token(&unknown, at(1)), looks(&books, &[true]));
        assert_eq!(found, Err(TokenError::Away), "it may be good: nobody knows");
    }
}
