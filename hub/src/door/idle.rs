//! Whether anything happens on a connection: streams are counted, and the time since the last one ended. A connection without streams
//! is of no use to anybody but somebody who collects them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tonic::Status;

/// How a connection is used.
#[derive(Clone, Copy, Debug)]
struct Usage {
    open: usize,
    ever: bool,
    since: Instant,
}

/// The streams of one connection. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<watch::Sender<Usage>>);

impl Activity {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Usage { open: 0, ever: false, since: Instant::now() })))
    }

    /// A stream, until it is dropped.
    pub fn open(&self) -> OpenStream {
        self.0.send_modify(|usage| {
            usage.open += 1;
            usage.ever = true;
        });
        OpenStream(self.clone())
    }

    pub fn streams(&self) -> usize {
        self.0.borrow().open
    }

    /// Ends when no stream was opened within the first time, or none is open for the second.
    pub async fn idle(&self, first: Duration, later: Duration) {
        let mut changes = self.0.subscribe();
        loop {
            let usage = *changes.borrow_and_update();
            let patience = if usage.ever { later } else { first };
            tokio::select! {
                // The sender lives as long as self.
                _ = changes.changed() => {}
                () = sleep_until(usage.since + patience), if usage.open == 0 => return,
            }
        }
    }
}

/// A stream that is open.
#[derive(Debug)]
pub(super) struct OpenStream(Activity);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.send_modify(|usage| {
            usage.open -= 1;
            usage.since = Instant::now();
        });
    }
}

/// Bytes before each message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What is not there yet of a first message.
#[derive(Debug, Default)]
struct First {
    prefix: [u8; PREFIX],
    read: usize,
    message: usize,
}

impl First {
    /// True when it is there as a whole.
    fn complete(&mut self, mut bytes: &[u8]) -> bool {
        let taken = bytes.len().min(PREFIX - self.read);
        self.prefix[self.read..self.read + taken].copy_from_slice(&bytes[..taken]);
        self.read += taken;
        bytes = &bytes[taken..];
        self.message = self.message.saturating_add(bytes.len());
        let [_, a, b, c, d] = self.prefix;
        self.read == PREFIX && self.message >= usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX)
    }
}

/// A request's body whose first message has to come in time, and as a whole: a stream that says nothing, or half a message, holds a place
/// for nothing.
pub(super) struct Prompt<B> {
    body: B,
    patience: Duration,
    until: Option<Pin<Box<Sleep>>>,
    first: First,
}

impl<B: Body> Prompt<B> {
    pub fn new(body: B, patience: Duration) -> Self {
        let until = (!body.is_end_stream()).then(|| Box::pin(sleep(patience)));
        Self { body, patience, until, first: First::default() }
    }
}

impl<B> Body for Prompt<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref);
                // Without data it is the end.
                if data.is_none_or(|bytes| self.first.complete(bytes)) {
                    self.until = None;
                }
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
            Poll::Pending => {}
        }
        let Some(until) = &mut self.until else { return Poll::Pending };
        match until.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.until = None;
                let message = format!(
                    "the call said nothing within {:?}, or not all of its first message; send it at once",
                    self.patience
                );
                Poll::Ready(Some(Err(Box::new(Status::deadline_exceeded(message)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(20);
    const LATER: Duration = Duration::from_millis(60);

    #[test]
    fn a_first_message_is_there_with_its_last_byte_however_it_is_cut() {
        let message = [0, 0, 0, 0, 3, b'a', b'b', b'c'];
        for cut in 0..message.len() {
            let mut first = First::default();
            assert!(!first.complete(&message[..cut]), "{cut}");
            assert!(first.complete(&message[cut..]), "{cut}");
        }
        assert!(First::default().complete(&[0; PREFIX]), "an empty message");
        assert!(!First::default().complete(&[0, 0, 0x40, 0, 0, 1, 2, 3]));
    }

    #[tokio::test]
    async fn a_connection_is_idle_after_the_first_time_or_after_its_last_stream() {
        // Times are compared downwards only: a busy machine is late, and never early.
        let begun = Instant::now();
        Activity::new().idle(FIRST, Duration::MAX / 4).await;
        assert!(begun.elapsed() >= FIRST);

        let activity = Activity::new();
        let (one, two) = (activity.open(), activity.open());
        let idle = activity.idle(FIRST, LATER);
        let mut idle = std::pin::pin!(idle);
        tokio::select! {
            () = &mut idle => panic!("streams are open"),
            () = sleep(LATER * 2) => {}
        }
        drop(one);
        tokio::select! {
            () = &mut idle => panic!("a stream is open"),
            () = sleep(LATER * 2) => {}
        }
        let begun = Instant::now();
        drop(two);
        idle.await;
        assert!(begun.elapsed() >= LATER);
        assert_eq!(activity.streams(), 0);
    }
}
