//! Calls with one answer while they are under way, from their first byte to the last of the answer: how many one caller may have, and one
//! address without a proof, and for how long a message may be on its way. So what waits for messages to come and for answers to be
//! taken is bounded by their number: 64 requests of 256 KiB and 64 pages of 2 MiB of one caller, and not as many as he can send. How long
//! one message may be is said for each service in `grpc/mod.rs`.

use std::{
    collections::HashMap,
    hash::RandomState,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use switchyard_core::access::Identity;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::rates::caller_key;
use crate::door::source_of;

/// For the whole of a request whose message is one: 256 KiB in it are 26 KiB a second.
pub(super) const WHOLE: Duration = Duration::from_secs(10);
/// Calls of one caller at a time, and of one address without a proof.
const MOST: usize = 64;
/// Calls without a proof at a time, from all addresses.
const MOST_UNPROVED: usize = 1024;
/// The same with `--dev`, where everybody is one caller.
const DEVELOPMENT_FACTOR: usize = 100;

/// Who is counted for himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Caller(u64),
    /// Without a proof.
    Source(Option<IpAddr>),
}

/// The calls under way. Clones are one list.
#[derive(Clone, Debug)]
pub(super) struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    most_unproved: usize,
    hasher: RandomState,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Only those who have one.
    by_key: HashMap<Key, usize>,
    unproved: usize,
}

impl Calls {
    pub(super) fn new(development: bool) -> Self {
        let factor = if development { DEVELOPMENT_FACTOR } else { 1 };
        Self::with(MOST * factor, MOST_UNPROVED * factor)
    }

    fn with(most: usize, most_unproved: usize) -> Self {
        Self(Arc::new(Inner { most, most_unproved, hasher: RandomState::new(), open: Mutex::default() }))
    }

    /// A place for one call more, until it is dropped; how many there may be when there is none.
    pub(super) fn enter(&self, identity: &Identity, source: Option<IpAddr>) -> Result<CallPlace, usize> {
        let key = match identity {
            Identity::Anonymous => Key::Source(source.map(source_of)),
            known => Key::Caller(caller_key(&self.0.hasher, known)),
        };
        let unproved = matches!(key, Key::Source(_));
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if unproved && open.unproved >= self.0.most_unproved {
            return Err(self.0.most_unproved);
        }
        let of_key = open.by_key.entry(key).or_default();
        if *of_key >= self.0.most {
            return Err(self.0.most);
        }
        *of_key += 1;
        open.unproved += usize::from(unproved);
        Ok(CallPlace { key, list: Arc::clone(&self.0) })
    }
}

/// The place of a call.
#[derive(Debug)]
pub(super) struct CallPlace {
    key: Key,
    list: Arc<Inner>,
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        let mut open = self.list.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_key) = open.by_key.get_mut(&self.key) {
            *of_key -= 1;
            if *of_key == 0 {
                open.by_key.remove(&self.key);
            }
        }
        if matches!(self.key, Key::Source(_)) {
            open.unproved -= 1;
        }
    }
}

/// The body of a request with one message, which has to be there as a whole in time.
pub(super) fn whole(body: Body, patience: Duration) -> Body {
    if hyper::body::Body::is_end_stream(&body) {
        return body;
    }
    Body::new(Whole { body: Some(body), patience, until: Box::pin(sleep(patience)) })
}

struct Whole {
    body: Option<Body>,
    patience: Duration,
    until: Pin<Box<Sleep>>,
}

impl hyper::body::Body for Whole {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(mut body) = self.body.take() else { return Poll::Ready(None) };
        // First: one that always has a little more is late, too.
        if self.until.as_mut().poll(context).is_ready() {
            let message = format!("the request was not there as a whole within {:?}; send it at once", self.patience);
            return Poll::Ready(Some(Err(axum::Error::new(Status::deadline_exceeded(message)))));
        }
        let polled = Pin::new(&mut body).poll_frame(context);
        if !matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = Some(body);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, hyper::body::Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;

    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn calls_are_counted_for_each_caller_and_without_a_proof_for_each_address() {
        let calls = Calls::with(2, 3);
        let token = |name: &str| Identity::ServiceToken { name: name.to_owned() };
        // Wherever a caller calls from, he is one.
        let two = [calls.enter(&token("ci"), ip("192.0.2.1")).unwrap(), calls.enter(&token("ci"), None).unwrap()];
        assert_eq!(calls.enter(&token("ci"), ip("192.0.2.9")).unwrap_err(), 2);
        let other = calls.enter(&token("cd"), ip("192.0.2.1")).unwrap();
        let unproved = |address| calls.enter(&Identity::Anonymous, ip(address));
        let mut held = vec![unproved("2001:db8:1:2::1").unwrap(), unproved("2001:db8:1:2::2").unwrap()];
        assert_eq!(unproved("2001:db8:1:2::3").unwrap_err(), 2, "a network of IPv6 is one address");
        held.push(unproved("192.0.2.1").unwrap());
        assert_eq!(unproved("192.0.2.2").unwrap_err(), 3, "of all addresses");
        held.clear();
        held.push(unproved("2001:db8:1:2::3").unwrap());
        drop((two, other, held));
        let open = calls.0.open.lock().unwrap();
        assert!(open.by_key.is_empty() && open.unproved == 0);
    }

    #[tokio::test]
    async fn a_request_that_is_not_there_as_a_whole_in_time_ends_however_it_drips() {
        let patience = Duration::from_millis(100);
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"one"))]);
        let drip = stream::unfold((), async |()| {
            sleep(Duration::from_millis(1)).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b".")), ()))
        });
        for rest in [stream::pending().boxed(), drip.boxed()] {
            let mut body = whole(Body::from_stream(first.clone().chain(rest)), patience);
            let begun = tokio::time::Instant::now();
            let error = loop {
                match body.frame().await.expect("an end with a reason") {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains("within 100ms"), "{error}");
            assert!(begun.elapsed() >= patience);
            assert!(body.frame().await.is_none());
        }
        let whole = whole(Body::from("all of it"), patience).collect().await.unwrap().to_bytes();
        assert_eq!(whole, "all of it");
    }
}
