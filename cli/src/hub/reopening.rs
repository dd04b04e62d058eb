//! A stream that is opened again whenever it breaks, with growing pauses. What its messages mean is decided by its users.

use std::{pin::Pin, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Response, Status, Streaming};

use super::{CONNECT, FIRST_PAUSE, LAST_PAUSE};

/// A hub that asks for more than this is not obeyed to the letter: whoever waits wants to know sooner that it is no use.
const LONGEST_TOLD: Duration = Duration::from_secs(60);

type Opening<T> = Pin<Box<dyn Future<Output = Result<Streaming<T>, Status>> + Send>>;

/// What a stream gives.
pub enum Raw<T> {
    Opened,
    Message(T),
    /// It ended, or could not be opened; [`Reopening::lost`] lets it be opened again.
    Broken(Status),
}

pub struct Reopening<T> {
    stream: Option<Streaming<T>>,
    /// Kept from one `next` to the other: a caller that looks at its clock each second must not cut off a slow answer.
    opening: Option<Opening<T>>,
    pause: Duration,
    not_before: Instant,
}

impl<T: 'static> Reopening<T> {
    /// Opens at the first `next`.
    pub fn new() -> Self {
        Self { stream: None, opening: None, pause: FIRST_PAUSE, not_before: Instant::now() }
    }

    /// The next thing. May be dropped at any await and called again: nothing is lost.
    pub async fn next<F>(&mut self, open: impl FnOnce() -> F) -> Raw<T>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'static,
    {
        let Some(stream) = &mut self.stream else {
            sleep_until(self.not_before).await;
            let opening = self.opening.get_or_insert_with(|| Box::pin(bounded(open())));
            let opened = opening.await;
            self.opening = None;
            return match opened {
                Ok(stream) => {
                    self.stream = Some(stream);
                    Raw::Opened
                }
                Err(status) => Raw::Broken(status),
            };
        };
        match stream.message().await {
            Ok(Some(message)) => {
                self.pause = FIRST_PAUSE;
                Raw::Message(message)
            }
            Ok(None) => Raw::Broken(Status::unavailable("the hub ended the watch")),
            Err(status) => Raw::Broken(status),
        }
    }

    /// The stream is of no use any more; the next one is opened after a pause.
    pub fn lost(&mut self) {
        self.lost_for(None);
    }

    /// The same, when the hub may have said for how long it does not want to be asked.
    pub fn lost_for(&mut self, told: Option<Duration>) {
        self.stream = None;
        self.not_before = Instant::now() + told.map_or(self.pause, |told| told.clamp(self.pause, LONGEST_TOLD));
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }
}

async fn bounded<T>(
    open: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<Streaming<T>, Status> {
    match timeout(CONNECT, open).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::unavailable(format!("no answer within {CONNECT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_slow_answer_is_not_asked_for_again_by_a_caller_that_looks_at_its_clock() {
        let mut stream = Reopening::<()>::new();
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        let (mut answer, answered) = (Some(answer), Cell::new(Some(answered)));
        let open = || {
            let answered = answered.take().expect("it is asked for once");
            async {
                let _ = answered.await;
                Err(Status::not_found("nothing of that name"))
            }
        };
        let mut looks = 0;
        let status = loop {
            tokio::select! {
                biased;
                raw = stream.next(open) => match raw {
                    Raw::Broken(status) => break status,
                    Raw::Opened | Raw::Message(()) => panic!("the stream cannot be opened"),
                },
                // The clock: the opening is dropped here, and asked for again in the next round.
                () = tokio::task::yield_now() => {
                    looks += 1;
                    if looks == 3 {
                        drop(answer.take());
                    }
                }
            }
        };
        assert_eq!(status.message(), "nothing of that name");
        assert!(looks >= 3, "{looks}");
    }

    #[tokio::test]
    async fn pauses_grow_up_to_the_longest() {
        let mut stream = Reopening::<()>::new();
        let pauses: Vec<u128> = (0..7)
            .map(|_| {
                let pause = stream.pause.as_millis();
                stream.lost();
                pause
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
    }
}
