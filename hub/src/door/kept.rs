//! What belongs to an answer until the connection has taken its last byte: hyper lets go of a body as soon as its pieces were handed to
//! the protocol, and there they wait for as long as the peer does not read. So each piece holds what the answer was given, and an answer
//! that nobody takes ends its connection.

use std::{
    any::Any,
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep, sleep_until};

/// In the extensions of an answer that comes as a whole: what is given back when the connection has taken all of it, or is gone. Whoever
/// takes it out of the answer keeps it with the bytes.
#[derive(Clone)]
pub struct Keep(Arc<dyn Any + Send + Sync>);

impl Keep {
    /// Keeps this.
    pub fn new(kept: impl Any + Send + Sync) -> Self {
        Self(Arc::new(kept))
    }
}

/// A body, and what is to be kept as long as anything of it is.
pub(super) struct Held<B, T> {
    body: B,
    kept: Arc<T>,
}

impl<B, T> Held<B, T> {
    pub fn new(body: B, kept: T) -> Self {
        Self { body, kept: Arc::new(kept) }
    }
}

impl<B: Body<Data = Bytes> + Unpin, T> Body for Held<B, T> {
    type Data = Piece<T>;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece<T>>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let kept = &self.kept;
        polled.map(|frame| {
            frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| Piece { bytes, _kept: Arc::clone(kept) })))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of an answer on its way out.
#[derive(Debug)]
pub(super) struct Piece<T> {
    bytes: Bytes,
    _kept: Arc<T>,
}

impl<T> Buf for Piece<T> {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

type Waiting = VecDeque<(Instant, Weak<dyn Any + Send + Sync>)>;

/// The answers of one connection that are on their way out, in the order in which they were given. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Untaken(Arc<Mutex<Waiting>>);

impl Untaken {
    /// One more.
    pub fn answered(&self, keep: &Keep) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // As many are left as are on their way, which is bounded for each caller.
        waiting.retain(|(_, kept)| kept.strong_count() > 0);
        waiting.push_back((Instant::now(), Arc::downgrade(&keep.0)));
    }

    fn oldest(&self) -> Option<Instant> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(_, kept)| kept.strong_count() > 0);
        waiting.front().map(|(since, _)| *since)
    }

    /// Ends when an answer was not taken for so long.
    pub async fn late(&self, patience: Duration) {
        loop {
            match self.oldest() {
                Some(since) if since + patience <= Instant::now() => return,
                Some(since) => sleep_until(since + patience).await,
                None => sleep(patience).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn what_is_kept_stays_until_the_last_piece_is_gone_and_not_only_the_body() {
        let (keep, token) = (Arc::new(()), Arc::new(()));
        let mut body = Held::new(Full::new(Bytes::from_static(b"abc")), (Arc::clone(&keep), token));
        let mut piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        piece.advance(2);
        assert_eq!((piece.chunk(), Arc::strong_count(&keep)), (&b"c"[..], 2));
        drop(piece);
        assert_eq!(Arc::strong_count(&keep), 1);
    }

    #[tokio::test]
    async fn the_oldest_answer_that_was_not_taken_is_late_and_one_that_was_is_not() {
        // Times are compared downwards only: a busy machine is late, and never early.
        let (untaken, patience) = (Untaken::default(), Duration::from_millis(100));
        let (taken, stays) = (Keep::new(1), Keep::new(2));
        untaken.answered(&taken);
        sleep(patience / 2).await;
        let begun = Instant::now();
        untaken.answered(&stays);
        drop(taken);
        untaken.late(patience).await;
        assert!(begun.elapsed() >= patience);
        drop(stays);
        assert_eq!(untaken.oldest(), None);
    }
}
