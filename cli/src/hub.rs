//! The connection to the hub: address rules, TLS, calls with bounded retries, and a watch that reconnects.
//!
//! The only module that speaks gRPC, with `shift_watch` and `cluster_watch`. It returns values of `model`; what they mean is decided elsewhere.

mod address;
mod cluster_watch;
mod proof;
mod reopening;
mod shift_watch;
mod tls;

use std::time::{Duration, Instant};

pub use address::is_here;
pub use cluster_watch::{ClusterNews, ClusterWatch};
use proof::{Proof, Token};
use reopening::{Raw, Reopening};
pub use shift_watch::{ShiftNews, ShiftWatch};
use switchyard_proto::api::v1::{
    self as pb, access_service_client::AccessServiceClient, audit_service_client::AuditServiceClient,
    cluster_service_client::ClusterServiceClient, policy_service_client::PolicyServiceClient,
    safety_service_client::SafetyServiceClient, shift_service_client::ShiftServiceClient,
};
pub use tls::TlsError;
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    args::Global,
    error::{Exit, Failure, Kind, from_status, is_transient, retry_after, with_causes},
    model::{Event, Policy, PolicyRef, Shift},
    output::progress,
};

/// A page of 100 policies of 64 KiB each is 6.4 MB; twice that and a little, where tonic's default is 4 MiB.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Keep-alive: a watch over a dead path is noticed after 10 + 5 seconds instead of TCP's quarter of an hour.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);
/// One attempt to connect, so that a black hole leaves time for another address or a retry.
const CONNECT: Duration = Duration::from_secs(5);
/// Retries double from the first to the last: gentle to a hub that is starting, quick for a person who waits.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// A hub that pages for ever is broken; 10,000 pages of 1000 endpoints are beyond any fleet.
pub const MAX_PAGES: usize = 10_000;

/// In the hub's answers: the age of the picture that they were read from, in milliseconds.
const AGE_HEADER: &str = "switchyard-picture-age-ms";
/// From this age on an answer is called old.
const STALE: Duration = Duration::from_secs(10);

/// A client of one hub.
#[derive(Clone)]
pub struct Hub {
    channel: Channel,
    url: String,
    timeout: Duration,
    proof: Proof,
}

impl Hub {
    /// Checks the address, reads the TLS files and the token. Connects at the first call. Must be called inside the runtime.
    pub fn new(global: &Global, timeout: Duration) -> Result<Self, Failure> {
        let uri = address::address(&global.hub, global)?;
        let tls = global.tls_ca.as_deref().map(|ca| address::tls(ca, global)).transpose()?;
        let endpoint = match &tls {
            // To tonic the connection is plain, for its TLS is made here; calls name what they are for as it is.
            Some(_) => Endpoint::from(address::plain(&uri)).origin(uri),
            None => Endpoint::from(uri),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT.min(timeout))
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true)
            .user_agent(concat!("yardctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| Failure::new(Exit::Internal, "cannot name the client", error, "report this"))?;
        let channel = match tls {
            Some(tls) => {
                endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| tls.clone().connect(uri)))
            }
            None => endpoint.connect_lazy(),
        };
        let proof = Proof::of(global)?;
        Ok(Self { channel, url: global.hub.clone(), timeout, proof })
    }

    pub fn policies(channel: Channel) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER)
    }

    pub fn clusters(channel: Channel) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER)
    }

    pub fn shifts(channel: Channel) -> ShiftServiceClient<Channel> {
        ShiftServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER)
    }

    pub fn audit(channel: Channel) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER)
    }

    pub fn safety(channel: Channel) -> SafetyServiceClient<Channel> {
        SafetyServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER)
    }

    pub fn access(channel: Channel) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER)
    }

    /// A call with the token as it is now, and that token. A file that cannot be read at this moment may be one that is being
    /// replaced: that is tried again like a hub that is away.
    fn proved<T>(&self, message: T) -> Result<(Request<T>, Option<Token>), Status> {
        let mut request = Request::new(message);
        let token = self.proof.put_into(request.metadata_mut());
        token.map(|token| (request, token)).map_err(|why| Status::unavailable(why.to_string()))
    }

    /// Makes one call; sends it again, unchanged, while the hub is unavailable and the timeout allows.
    pub async fn call<Q: Clone, A>(
        &self,
        what: &str,
        kind: Kind<'_>,
        message: Q,
        send: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = FIRST_PAUSE;
        let mut before: Option<String> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (status, sent) = match self.proved(message.clone()) {
                Err(status) => (status, None),
                Ok((mut request, sent)) => {
                    // The hub learns how long an answer is of use.
                    request.set_timeout(left);
                    match timeout(left, send(self.channel.clone(), request)).await {
                        Ok(Ok(response)) => {
                            self.tell_age(response.metadata());
                            return Ok(response.into_inner());
                        }
                        Ok(Err(status)) => (status, sent),
                        Err(_) => (Status::deadline_exceeded(format!("no answer within {:?}", self.timeout)), sent),
                    }
                }
            };
            let again = self.again(&status, sent.as_ref(), pause);
            let Some(wait) = again.filter(|wait| Instant::now() + *wait < deadline) else {
                let failure = from_status(what, &self.url, kind, &status);
                return Err(late(failure, &status, before));
            };
            let why = with_causes(&status);
            self.tell_wait(&status, &why, wait, before.is_none());
            before = Some(why);
            sleep(wait).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// How long to wait before the same call is sent again, if another answer may come of it.
    fn again(&self, status: &Status, sent: Option<&Token>, pause: Duration) -> Option<Duration> {
        match status.code() {
            _ if is_transient(status) => Some(pause),
            Code::ResourceExhausted => retry_after(status).map(|told| told.max(pause)),
            Code::Unauthenticated => self.proof.renewed(sent).map(|_| pause),
            _ => None,
        }
    }

    fn tell_wait(&self, status: &Status, why: &str, wait: Duration, first: bool) {
        let url = &self.url;
        match status.code() {
            Code::ResourceExhausted => {
                progress(&format!("the hub at {url} wants to be asked again in {wait:?}: {why}"))
            }
            Code::Unauthenticated => {
                progress(&format!(
                    "the hub at {url} does not take the token, trying with the new one of its file: {why}"
                ));
            }
            _ if first => {
                progress(&format!("the hub at {url} is not available, trying for up to {:?}: {why}", self.timeout));
            }
            _ => {}
        }
    }

    fn tell_age(&self, metadata: &MetadataMap) {
        if let Some(age) = stale(metadata) {
            let (url, age) = (&self.url, age.as_secs());
            progress(&format!("the hub at {url} cannot read its database: this is what it knew {age} s ago"));
        }
    }

    /// What a broken watch comes to: why it is opened again, or nothing when what it watches is not there.
    fn broken(&self, what: &str, status: &Status, sent: Option<&Token>) -> Result<Option<String>, Failure> {
        match status.code() {
            Code::NotFound => Ok(None),
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                let renewed = self.proof.renewed(sent).filter(|_| status.code() == Code::Unauthenticated);
                let again = renewed.map(|file| format!("{}; trying with the new token of {file}", with_causes(status)));
                again.map(Some).ok_or_else(|| from_status(what, &self.url, Kind::Read, status))
            }
            _ => Ok(Some(with_causes(status))),
        }
    }

    /// A watch of one policy. Opens at the first `next`.
    pub fn watch(&self, policy: &PolicyRef) -> Watch {
        Watch { hub: self.clone(), policy: policy.clone(), stream: Reopening::new(), sent: None }
    }

    /// The shift that moves the policy now: one attempt, for a page that must not wait for what it can do without.
    pub async fn peek_shift(&self, policy: &PolicyRef) -> Result<Option<Shift>, String> {
        let message = pb::ListShiftsRequest {
            policy: Some(policy.into()),
            active: true,
            page_size: 1,
            ..pb::ListShiftsRequest::default()
        };
        let (mut request, _) = self.proved(message).map_err(|status| with_causes(&status))?;
        request.set_timeout(CONNECT);
        let answer = timeout(CONNECT, Self::shifts(self.channel.clone()).list_shifts(request)).await;
        let answer =
            answer.map_err(|_| format!("no answer within {CONNECT:?}"))?.map_err(|status| with_causes(&status))?;
        Ok(answer.into_inner().shifts.into_iter().next().map(Shift::from))
    }

    /// A watch of one shift. Opens at the first `next`.
    pub fn watch_shift(&self, id: &str) -> ShiftWatch {
        ShiftWatch::new(self.clone(), id)
    }

    /// A watch of one cluster. Opens at the first `next`.
    pub fn watch_cluster(&self, cluster: &str) -> ClusterWatch {
        ClusterWatch::new(self.clone(), cluster)
    }
}

/// The age of what an answer was read from, when it is too old to pass without a word. The hub reads its store every 2 s.
fn stale(metadata: &MetadataMap) -> Option<Duration> {
    let age = metadata.get(AGE_HEADER)?.to_str().ok()?.parse().ok().map(Duration::from_millis)?;
    (age >= STALE).then_some(age)
}

/// What a watch gives. Errors that a reconnect may heal are news (`Lost`), the others are failures.
#[derive(Debug)]
pub enum News {
    Opened,
    Policy(Event, Box<Policy>),
    Synced,
    NotFound,
    Lost(String),
}

/// A watch of one policy that opens its stream again whenever it breaks.
pub struct Watch {
    hub: Hub,
    policy: PolicyRef,
    stream: Reopening<pb::WatchPoliciesResponse>,
    /// The token that the stream was opened with.
    sent: Option<Token>,
}

impl Watch {
    /// The next news. May be dropped at any await and called again: nothing is lost.
    pub async fn next(&mut self) -> Result<News, Failure> {
        let (hub, policy, sent) = (&self.hub, &self.policy, &mut self.sent);
        let open = || {
            let mut client = Hub::policies(hub.channel.clone());
            let policy = pb::PolicyRef::from(policy);
            let message = pb::WatchPoliciesRequest { namespace: policy.namespace.clone(), policy: Some(policy) };
            let request = hub.proved(message).map(|(request, token)| {
                *sent = token;
                request
            });
            async move { client.watch_policies(request?).await }
        };
        match self.stream.next(open).await {
            Raw::Opened => Ok(News::Opened),
            Raw::Message(message) => Ok(self.news(message)),
            Raw::Broken(status) => self.broken(&status),
        }
    }

    fn news(&mut self, message: pb::WatchPoliciesResponse) -> News {
        let event = message.event();
        let policy = message.policy.map(|policy| Box::new(Policy::from(policy)));
        match (event, policy) {
            (pb::WatchEvent::Synced, _) => News::Synced,
            (pb::WatchEvent::Deleted, Some(policy)) => News::Policy(Event::Deleted, policy),
            (pb::WatchEvent::Present, Some(policy)) => News::Policy(Event::Present, policy),
            // An event that this version does not know still carries the policy as it is now.
            (_, Some(policy)) => News::Policy(Event::Changed, policy),
            (pb::WatchEvent::Deleted, None) => News::NotFound,
            (_, None) => {
                self.stream.lost();
                News::Lost("the hub sent an event without a policy".into())
            }
        }
    }

    fn broken(&mut self, status: &Status) -> Result<News, Failure> {
        // Asked again after a pause, if the caller goes on.
        self.stream.lost_for(retry_after(status));
        let what = format!("cannot watch {}", self.policy);
        Ok(self.hub.broken(&what, status, self.sent.as_ref())?.map_or(News::NotFound, News::Lost))
    }
}

/// When the time was up before an answer came, what the hub said before is the likely cause.
fn late(failure: Failure, status: &Status, before: Option<String>) -> Failure {
    match before {
        Some(before) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => {
            Failure { why: format!("{}; before that: {before}", failure.why), ..failure }
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_an_old_picture_is_told_from_a_fresh_one() {
        let answered = |age: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(AGE_HEADER, age.parse().unwrap());
            stale(&metadata)
        };
        assert_eq!(answered("9999"), None);
        assert_eq!(answered("10000"), Some(Duration::from_secs(10)));
        assert_eq!(answered("soon"), None);
        assert_eq!(stale(&MetadataMap::new()), None);
    }
}
