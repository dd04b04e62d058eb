//! The connection to the hub: address rules, TLS, calls with bounded retries, and a watch that reconnects.
//!
//! The only module that speaks gRPC, with `shift_watch` and `cluster_watch`. It returns values of `model`; what they mean is decided elsewhere.

mod cluster_watch;
mod reopening;
mod shift_watch;

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

pub use cluster_watch::{ClusterNews, ClusterWatch};
use reopening::{Raw, Reopening};
pub use shift_watch::{ShiftNews, ShiftWatch};
use switchyard_proto::api::v1::{
    self as pb, audit_service_client::AuditServiceClient, cluster_service_client::ClusterServiceClient,
    policy_service_client::PolicyServiceClient, safety_service_client::SafetyServiceClient,
    shift_service_client::ShiftServiceClient,
};
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use crate::{
    args::Global,
    error::{Exit, Failure, Kind, from_status, is_transient, with_causes},
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
}

impl Hub {
    /// Checks the address and reads the TLS files. Connects at the first call. Must be called inside the runtime.
    pub fn new(global: &Global, timeout: Duration) -> Result<Self, Failure> {
        let mut endpoint = Endpoint::from(address(&global.hub, global)?)
            .connect_timeout(CONNECT.min(timeout))
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_ANSWER)
            .keep_alive_while_idle(true)
            .user_agent(concat!("yardctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| Failure::new(Exit::Internal, "cannot name the client", error, "report this"))?;
        if let Some(ca) = &global.tls_ca {
            endpoint = endpoint.tls_config(tls(ca, global)?).map_err(|error| {
                Failure::usage("cannot use the TLS files", error, "give PEM files: --tls-ca, --tls-cert, --tls-key")
            })?;
        }
        Ok(Self { channel: endpoint.connect_lazy(), url: global.hub.clone(), timeout })
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
            let mut request = Request::new(message.clone());
            // The hub learns how long an answer is of use.
            request.set_timeout(left);
            let status = match timeout(left, send(self.channel.clone(), request)).await {
                Ok(Ok(response)) => {
                    if let Some(age) = stale(response.metadata()) {
                        progress(&format!(
                            "the hub at {} cannot read its database: this is what it knew {} s ago",
                            self.url,
                            age.as_secs()
                        ));
                    }
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {:?}", self.timeout)),
            };
            if !is_transient(&status) || Instant::now() + pause >= deadline {
                let failure = from_status(what, &self.url, kind, &status);
                return Err(late(failure, &status, before));
            }
            let why = with_causes(&status);
            if before.is_none() {
                progress(&format!(
                    "the hub at {} is not available, trying for up to {:?}: {}",
                    self.url, self.timeout, why
                ));
            }
            before = Some(why);
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// A watch of one policy. Opens at the first `next`.
    pub fn watch(&self, policy: &PolicyRef) -> Watch {
        Watch { hub: self.clone(), policy: policy.clone(), stream: Reopening::new() }
    }

    /// The shift that moves the policy now: one attempt, for a page that must not wait for what it can do without.
    pub async fn peek_shift(&self, policy: &PolicyRef) -> Result<Option<Shift>, String> {
        let mut request = Request::new(pb::ListShiftsRequest {
            policy: Some(policy.into()),
            active: true,
            page_size: 1,
            ..pb::ListShiftsRequest::default()
        });
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
}

impl Watch {
    /// The next news. May be dropped at any await and called again: nothing is lost.
    pub async fn next(&mut self) -> Result<News, Failure> {
        let (channel, policy) = (&self.hub.channel, &self.policy);
        let open = || {
            let mut client = Hub::policies(channel.clone());
            let policy = pb::PolicyRef::from(policy);
            let request = pb::WatchPoliciesRequest { namespace: policy.namespace.clone(), policy: Some(policy) };
            async move { client.watch_policies(request).await }
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
        self.stream.lost();
        match status.code() {
            Code::NotFound => Ok(News::NotFound),
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                Err(from_status(&format!("cannot watch {}", self.policy), &self.hub.url, Kind::Read, status))
            }
            _ => Ok(News::Lost(with_causes(status))),
        }
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

/// The address, if it may be used: plain text is for this machine only.
fn address(text: &str, global: &Global) -> Result<Uri, Failure> {
    let bad = |why: String, remedy: &str| Err(Failure::usage(format!("cannot use the hub '{text}'"), why, remedy));
    let example = "give https://HOST:PORT, or http://127.0.0.1:PORT on this machine";
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(error) => return bad(format!("not an address: {error}"), example),
    };
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return bad("it lacks scheme or host".into(), example);
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return bad("it has a path".into(), example);
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return bad("it holds a user name".into(), "identify with --tls-cert and --tls-key");
    }
    let tls_files = global.tls_ca.is_some() || global.tls_cert.is_some() || global.tls_key.is_some();
    match scheme {
        "https" if global.tls_ca.is_none() => {
            bad("https:// needs the CA that signed the hub's certificate".into(), "give it with --tls-ca FILE")
        }
        "https" => Ok(uri),
        "http" if tls_files => bad("TLS files are given, but http:// is not encrypted".into(), "write https://"),
        "http" if global.insecure || is_loopback(host) => Ok(uri),
        "http" => bad(
            "http:// is allowed only to this machine: on the way anyone could read and change what moves your traffic"
                .into(),
            "use https:// with --tls-ca, or say --insecure if the path is protected otherwise",
        ),
        _ => bad(format!("the scheme {scheme}:// is not known"), example),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tls(ca: &Path, global: &Global) -> Result<ClientTlsConfig, Failure> {
    let read = |path: &Path| {
        fs::read(path).map_err(|error| {
            let remedy = "give readable PEM files with --tls-ca, --tls-cert, --tls-key";
            Failure::usage(format!("cannot read {}", path.display()), error, remedy)
        })
    };
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    match (&global.tls_cert, &global.tls_key) {
        (Some(cert), Some(key)) => config = config.identity(Identity::from_pem(read(cert)?, read(key)?)),
        (None, None) => {}
        _ => {
            let why = "--tls-cert and --tls-key belong together, one of them is missing";
            return Err(Failure::usage("cannot use the client certificate", why, "give both, or neither"));
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn check(arguments: &[&str]) -> Result<(), String> {
        let mut line = vec!["yardctl", "version", "--hub"];
        line.extend(arguments);
        let global = Cli::try_parse_from(line).unwrap().global;
        address(&global.hub, &global).map(drop).map_err(|failure| failure.report())
    }

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

    #[test]
    fn plain_text_goes_only_to_this_machine() {
        for hub in ["http://127.0.0.1:7400", "http://127.8.9.1:1", "http://localhost:7400", "http://[::1]:7400/"] {
            assert_eq!(check(&[hub]), Ok(()), "{hub}");
        }
        for hub in ["http://hub.example.com:7400", "http://10.0.0.1:7400", "http://localhost.example.com"] {
            let report = check(&[hub]).unwrap_err();
            assert!(report.contains("anyone could read and change") && report.contains("--insecure"), "{report}");
            assert_eq!(check(&[hub, "--insecure"]), Ok(()), "{hub}");
        }
    }

    #[test]
    fn https_needs_a_ca_and_http_takes_no_tls_files() {
        assert!(check(&["https://hub:7400"]).unwrap_err().contains("--tls-ca FILE"));
        assert_eq!(check(&["https://hub:7400", "--tls-ca", "ca.pem"]), Ok(()));
        assert!(check(&["http://localhost:7400", "--tls-ca", "ca.pem"]).unwrap_err().contains("write https://"));
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_an_example() {
        for hub in
            ["", "hub:7400", "ftp://localhost", "http://localhost/path", "http://localhost?x=1", "not an address"]
        {
            let report = check(&[hub]).unwrap_err();
            assert!(report.contains("https://HOST:PORT"), "{hub}: {report}");
        }
        assert!(check(&["http://me@localhost"]).unwrap_err().contains("user name"));
    }
}
