//! Open streams, agents' and callers': how many one may have, and when they end from here. A proof is looked at when a call begins; a
//! stream that lasts for days would outlive it. So every stream stands in one list, and whoever keeps the book of tokens and
//! certificates judges the list anew each second: those whose proof was revoked, is over, or gives other rights now, are ended, both
//! ways: what the caller still sends is not taken any more. No stream has a timer of its own.

use std::{
    collections::HashMap,
    hash::RandomState,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};
use jiff::Timestamp;
use switchyard_core::access::Identity;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::{authenticate::Proof, rates::caller_key};

/// Streams of one agent at a time: it has four, another process of it may wait for its turn with as many, and streams that broke may
/// not be noticed at once.
const MOST_OF_AGENT: usize = 16;

/// Why a stream was ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The certificate of an agent was taken back.
    CertificateRevoked,
    /// The certificate is over.
    CertificateOver,
    /// The service token was taken back.
    TokenRevoked,
    /// The service token, or the token of an issuer, is over.
    TokenOver,
    /// The access file gives the caller something else than before.
    Rights,
}

impl Ended {
    /// A word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Ended::CertificateRevoked => "certificate_revoked",
            Ended::CertificateOver => "certificate_over",
            Ended::TokenRevoked => "token_revoked",
            Ended::TokenOver => "token_over",
            Ended::Rights => "rights_changed",
        }
    }

    /// What the caller is told.
    pub fn status(self) -> Status {
        match self {
            Ended::CertificateRevoked => {
                Status::unauthenticated("the certificate was revoked; get a new one with a new join token")
            }
            Ended::CertificateOver => {
                Status::unauthenticated("the certificate has ended; connect again with the next one")
            }
            Ended::TokenRevoked => Status::unauthenticated("the token was revoked; get a new one"),
            Ended::TokenOver => Status::unauthenticated("the token has ended; call again with a new one"),
            Ended::Rights => Status::unavailable("what this caller may do has changed; call again"),
        }
    }
}

/// Why there is no room for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The caller has as many as one may have.
    OfCaller(usize),
    /// There are as many as this hub takes.
    InAll(usize),
}

/// The list. Clones are one.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    most: usize,
    most_in_all: usize,
    hasher: RandomState,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    next: u64,
    open: HashMap<u64, Arc<Stream>>,
    /// Streams by caller; one without any is not in it.
    by_caller: HashMap<u64, usize>,
}

/// An open stream.
struct Stream {
    caller: u64,
    proof: Proof,
    /// The access file that its rights were compared with, by its number; 0: none yet. A call that began before the file changed opens
    /// its stream after it, so the file of the beginning does not count.
    judged: AtomicU64,
    ended: OnceLock<Ended>,
    token: CancellationToken,
}

impl Streams {
    /// An empty list.
    pub fn new(most: usize, most_in_all: usize) -> Self {
        let (hasher, list) = (RandomState::new(), Mutex::default());
        Self(Arc::new(Inner { most, most_in_all, hasher, list }))
    }

    /// A place for one stream more.
    ///
    /// # Errors
    /// [`NoRoom`] when there are too many.
    pub(super) fn open(&self, proof: Proof) -> Result<Place, NoRoom> {
        let caller = caller_key(&self.0.hasher, &proof.identity);
        let mut list = self.0.list();
        if list.open.len() >= self.0.most_in_all {
            return Err(NoRoom::InAll(self.0.most_in_all));
        }
        let is_agent = matches!(proof.identity, Identity::Agent { .. });
        let most = if is_agent { self.0.most.min(MOST_OF_AGENT) } else { self.0.most };
        let of_caller = list.by_caller.entry(caller).or_default();
        if *of_caller >= most {
            return Err(NoRoom::OfCaller(most));
        }
        *of_caller += 1;
        let number = list.next;
        list.next += 1;
        let (judged, ended, token) = (AtomicU64::new(0), OnceLock::new(), CancellationToken::new());
        let stream = Arc::new(Stream { caller, proof, judged, ended, token });
        list.open.insert(number, Arc::clone(&stream));
        Ok(Place(Arc::new(Held { number, stream, list: Arc::clone(&self.0) })))
    }

    /// Ends every stream for which there is a reason; gives the reasons. `file`: the number of the access file that is in force, above
    /// 0. The reason is asked for with true when the stream was not compared with that file before: only then this costs anything.
    pub(super) fn judge(&self, file: u64, reason: impl Fn(&Proof, bool) -> Option<Ended>) -> Vec<Ended> {
        // Judged outside the lock: opening a stream must not wait for thousands of looks into the access file.
        let open: Vec<Arc<Stream>> = self.0.list().open.values().cloned().collect();
        let mut ended = Vec::new();
        for stream in open.iter().filter(|stream| stream.ended.get().is_none()) {
            let compare = stream.judged.swap(file, Ordering::Relaxed) != file;
            if let Some(why) = reason(&stream.proof, compare) {
                // Nobody else sets it: the list is judged by one task.
                stream.ended.get_or_init(|| why);
                stream.token.cancel();
                ended.push(why);
            }
        }
        ended
    }

    /// Streams that are open.
    pub fn len(&self) -> usize {
        self.0.list().open.len()
    }

    /// True when no stream is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place in the list; given back with its last clone.
#[derive(Clone)]
pub(super) struct Place(Arc<Held>);

struct Held {
    number: u64,
    stream: Arc<Stream>,
    list: Arc<Inner>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut list = self.list.list();
        list.open.remove(&self.number);
        if let Some(of_caller) = list.by_caller.get_mut(&self.stream.caller) {
            *of_caller = of_caller.saturating_sub(1);
            if *of_caller == 0 {
                list.by_caller.remove(&self.stream.caller);
            }
        }
    }
}

impl Place {
    /// Waits until the stream is ended from here; for ever when it is not.
    pub(super) async fn ended(&self) -> Status {
        self.0.stream.token.cancelled().await;
        self.status()
    }

    fn status(&self) -> Status {
        self.0
            .stream
            .ended
            .get()
            .map_or_else(|| Status::unavailable("the stream was ended; call again"), |why| why.status())
    }

    fn wait(&self) -> Pin<Box<WaitForCancellationFutureOwned>> {
        Box::pin(self.0.stream.token.clone().cancelled_owned())
    }

    /// What the caller sends, until the stream is ended. It does not hold the place: a service may keep it longer than the stream.
    pub(super) fn requests(&self, body: Body) -> Body {
        Body::new(Requests { body: Some(body), end: self.wait(), stream: Arc::clone(&self.0.stream) })
    }

    /// What the caller gets; ends with the reason when the stream is ended from here. `told` hears the trailers that the service sent.
    pub(super) fn answers(self, body: Body, told: impl FnOnce(&HeaderMap) + Send + 'static) -> Body {
        let end = self.wait();
        Body::new(Answers { body: Some(body), end, place: self, told: Some(Box::new(told)) })
    }
}

struct Requests {
    body: Option<Body>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    stream: Arc<Stream>,
}

impl hyper::body::Body for Requests {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(mut body) = self.body.take() else { return Poll::Ready(None) };
        // First: what arrives after the end must not be read, however fast it comes.
        if self.end.as_mut().poll(context).is_ready() {
            let why =
                self.stream.ended.get().map_or_else(|| Status::unavailable("the stream was ended"), |why| why.status());
            return Poll::Ready(Some(Err(axum::Error::new(why))));
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
}

type Told = Box<dyn FnOnce(&HeaderMap) + Send>;

struct Answers {
    body: Option<Body>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
    told: Option<Told>,
}

impl hyper::body::Body for Answers {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(mut body) = self.body.take() else { return Poll::Ready(None) };
        if self.end.as_mut().poll(context).is_ready() {
            // The service's half is dropped with its body: it sees that nobody listens.
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&self.place.status())))));
        }
        let polled = Pin::new(&mut body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
            && let Some(told) = self.told.take()
        {
            told(trailers);
        }
        if !matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = Some(body);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // Not the service's: the trailers of an end from here are not in it.
        SizeHint::default()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // A message that no header can carry: the code alone.
        trailers.clear();
        trailers.insert("grpc-status", http::HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

/// Whether a proof still holds at this time, as far as its own end says.
pub(super) fn over(proof: &Proof, now: Timestamp) -> Option<Ended> {
    let ends_at = proof.streams_end_at?;
    (now >= ends_at).then_some(if proof.identity.method() == "certificate" {
        Ended::CertificateOver
    } else {
        Ended::TokenOver
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;
    use http_body_util::BodyExt;
    use switchyard_core::access::Grants;
    use tonic::Code;

    use super::*;
    use crate::access::authenticate::Credential;

    fn proof(name: &str) -> Proof {
        Proof {
            identity: Identity::ServiceToken { name: name.to_owned() },
            grants: Grants::none(),
            credential: Credential::ServiceToken { id: name.to_owned() },
            expires_at: None,
            streams_end_at: None,
        }
    }

    /// Sends one piece and then nothing, without an end.
    fn endless() -> Body {
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"one"))]);
        Body::from_stream(futures::StreamExt::chain(first, stream::pending()))
    }

    #[tokio::test]
    async fn a_stream_whose_token_is_revoked_ends_both_ways_with_the_reason() {
        let streams = Streams::new(10, 10);
        let (place, other) = (streams.open(proof("ci")).unwrap(), streams.open(proof("other")).unwrap());
        let mut requests = place.requests(endless());
        let mut answers = place.answers(endless(), |_| {});
        assert_eq!(requests.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        assert_eq!(answers.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        let of_ci = |proof: &Proof, _| (proof.identity.to_string() == "token:ci").then_some(Ended::TokenRevoked);
        assert_eq!(streams.judge(1, of_ci), [Ended::TokenRevoked]);
        assert_eq!(streams.judge(1, of_ci), [], "once");
        let trailers = answers.frame().await.unwrap().unwrap().into_trailers().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "the token was revoked; get a new one"));
        assert!(answers.frame().await.is_none());
        let refused = requests.frame().await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("revoked"), "{refused}");
        assert!(requests.frame().await.is_none());
        drop(answers);
        assert_eq!(streams.len(), 1);
        drop(other);
        assert!(streams.is_empty());
    }

    #[tokio::test]
    async fn what_was_sent_after_the_end_is_not_read() {
        let streams = Streams::new(10, 10);
        let place = streams.open(proof("ci")).unwrap();
        let mut requests = place.requests(endless());
        streams.judge(1, |_, _| Some(Ended::TokenRevoked));
        assert!(requests.frame().await.unwrap().is_err());
    }

    #[test]
    fn each_stream_is_compared_with_each_access_file_once_whenever_it_was_opened() {
        let streams = Streams::new(10, 10);
        let compared = |file| {
            let names = Mutex::new(Vec::new());
            streams.judge(file, |proof, compare| {
                names.lock().unwrap().extend(compare.then(|| proof.identity.to_string()));
                None
            });
            let mut names = names.into_inner().unwrap();
            names.sort_unstable();
            names
        };
        let _early = streams.open(proof("early")).unwrap();
        assert_eq!(compared(1), ["token:early"]);
        assert_eq!(compared(1), [""; 0]);
        assert_eq!(compared(2), ["token:early"]);
        let _late = streams.open(proof("late")).unwrap();
        assert_eq!(compared(2), ["token:late"], "opened after the file was taken, maybe judged by the one from before");
        assert_eq!(compared(2), [""; 0]);
    }

    #[test]
    fn streams_are_counted_for_each_caller_and_in_all() {
        let streams = Streams::new(2, 3);
        let (first, second) = (streams.open(proof("a")).unwrap(), streams.open(proof("a")).unwrap());
        assert_eq!(streams.open(proof("a")).err(), Some(NoRoom::OfCaller(2)));
        let third = streams.open(proof("b")).unwrap();
        assert_eq!(streams.open(proof("c")).err(), Some(NoRoom::InAll(3)));
        drop(first);
        let again = streams.open(proof("a")).unwrap();
        drop((second, third, again));
        assert!(streams.is_empty() && streams.0.list().by_caller.is_empty());
    }

    #[test]
    fn an_agent_has_sixteen_streams_however_many_certificates_it_has() {
        let streams = Streams::new(256, 1000);
        let agent = |serial: usize| {
            let identity = Identity::Agent { cluster: "blue".parse().unwrap(), serial: serial.to_string() };
            streams.open(Proof { identity, ..proof("") })
        };
        let held: Vec<_> = (0..MOST_OF_AGENT).map(|serial| agent(serial).unwrap()).collect();
        assert_eq!(agent(99).err(), Some(NoRoom::OfCaller(MOST_OF_AGENT)));
        drop(held);
        assert!(agent(100).is_ok());
    }

    #[test]
    fn a_proof_is_over_at_its_end() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let token = Proof { streams_end_at: Some(at(10)), ..proof("ci") };
        assert_eq!((over(&token, at(9)), over(&token, at(10))), (None, Some(Ended::TokenOver)));
        let identity = Identity::Agent { cluster: "blue".parse().unwrap(), serial: "01".to_owned() };
        assert_eq!(over(&Proof { identity, ..token }, at(10)), Some(Ended::CertificateOver));
        assert_eq!(over(&proof("ci"), at(10)), None);
    }
}
