//! The gate itself: every call of every port passes it before its service sees it. In this order: is there such a call, who calls, how
//! often did he, may he at all, is there room for his stream. What the service answers passes it too, so that failed changes get into
//! the audit log. Every answer from here is gRPC's, trailers only, with what is missing and what helps.

use std::{net::IpAddr, str::FromStr, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
};
use http::{HeaderMap, Response};
use jiff::Timestamp;
use switchyard_core::access::{Denied, Identity, Kind, Need, Role, Touch, Who, need};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
    service::Routes,
};

use super::{
    Access, Gatekeeper,
    authenticate::{Proof, Unproved},
    calls::{WHOLE, whole},
    escaped,
    rates::TooMany,
    refusals::Refused,
    streams::{NoRoom, Place},
};
use crate::{
    door::{Keep, PeerInfo},
    metrics::{Bucket, Decision},
};

/// Agents may call it: load balancers and kubelets ask for health with whatever certificate they have.
const HEALTH: &str = "grpc.health.v1.Health/";
/// Of an enrolment; the only change that needs no proof, and therefore with a rate of its own.
const ENROL: &str = "switchyard.agent.v1.EnrollmentService/Enroll";
/// Calls in which the caller may send as often and as late as he likes. All others have one message, which has to be there in time.
const MANY_MESSAGES: [&str; 4] = [
    "switchyard.agent.v1.AgentService/Session",
    "switchyard.agent.v1.PolicySourceService/SyncPolicies",
    "switchyard.agent.v1.ShiftSourceService/SyncShifts",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];
/// In the audit log, for calls that there are not: what was sent as the path is anybody's text.
const UNKNOWN_CALL: &str = "unknown";
/// When no time is known: a look at the store or at an issuer.
const RETRY_SOON: Duration = Duration::from_secs(2);

/// A call that ends here.
struct Stop {
    identity: Identity,
    status: Status,
    outcome: &'static str,
    /// For the log, when it is more than the caller is told; none: it was logged enough.
    cause: Option<String>,
}

impl Stop {
    fn new(identity: &Identity, outcome: &'static str, status: Status) -> Self {
        let cause = Some(status.message().to_owned());
        Self { identity: identity.clone(), status, outcome, cause }
    }
}

impl Gatekeeper {
    /// These services behind the gate. There is no other way to them.
    pub fn around(&self, routes: Routes) -> Routes {
        Routes::from(routes.into_axum_router().layer(from_fn_with_state(self.clone(), pass))).prepare()
    }

    async fn gate(
        &self,
        need: Option<&'static Need>,
        peer: Option<&PeerInfo>,
        headers: &HeaderMap,
    ) -> Result<Proof, Stop> {
        let nobody = &Identity::Anonymous;
        let Some(peer) = peer else {
            tracing::error!(
                "a call came in through a door that does not say who is there; it is refused, this is a defect"
            );
            let status =
                Status::internal("the hub does not know where this call comes from; please report this defect");
            return Err(Stop::new(nobody, "denied", status));
        };
        let source = Some(peer.address.ip());
        let Some(need) = need else {
            self.inner.rates.failure(source).map_err(|wait| self.too_many(nobody, wait))?;
            let status = Status::unimplemented("this hub has no such call, or it is for nobody");
            return Err(Stop::new(nobody, "unknown_call", status));
        };
        let proof = match need.who {
            Who::Anyone => {
                if need.rpc == ENROL {
                    self.inner.rates.enrolment(source).map_err(|wait| self.too_many(nobody, wait))?;
                }
                if need.rpc.starts_with(HEALTH) {
                    self.inner.rates.health(source).map_err(|wait| self.too_many(nobody, wait))?;
                }
                if self.inner.settings.development { Proof::development() } else { Proof::anonymous() }
            }
            _ => {
                let config = self.in_force();
                let judged = self.judge(&config).proof(peer, headers).await;
                judged.map_err(|why| self.unproved(why, source))?
            }
        };
        if need.who != Who::Anyone {
            let counted = self.inner.rates.caller(&proof.identity, need.kind == Kind::Change);
            counted.map_err(|wait| self.too_many(&proof.identity, wait))?;
        }
        allowed(need, &proof)
            .map_err(|message| Stop::new(&proof.identity, "denied", Status::permission_denied(message)))?;
        Ok(proof)
    }

    fn unproved(&self, why: Unproved, source: Option<IpAddr>) -> Stop {
        let nobody = &Identity::Anonymous;
        if let Unproved::Flood(wait) = why {
            return self.too_many(nobody, wait);
        }
        if let Err(wait) = self.inner.rates.failure(source) {
            return self.too_many(nobody, wait);
        }
        let (outcome, status) = match &why {
            Unproved::Away(_) => {
                let status =
                    Status::unavailable("the hub cannot find out now whose token this is; try again in a moment");
                ("unavailable", with_wait(status, RETRY_SOON.as_secs()))
            }
            Unproved::Nothing => {
                let message = "this call needs to know who calls: send the metadata `authorization: Bearer <token>`, or connect with a \
                               client certificate (docs/access.md)";
                ("unauthenticated", Status::unauthenticated(message))
            }
            _ => {
                let message = "what was sent to prove who calls is not accepted: it may have ended, be meant for another service, or come \
                               from an issuer that this hub does not know; the log of the hub says which (docs/access.md)";
                ("unauthenticated", Status::unauthenticated(message))
            }
        };
        Stop { identity: Identity::Anonymous, status, outcome, cause: Some(why.to_string()) }
    }

    fn too_many(&self, identity: &Identity, wait: TooMany) -> Stop {
        let (pace, seconds) = (wait.pace, wait.seconds());
        let bucket = wait.bucket.label();
        self.inner.metrics.access_rate_limited.get_or_create(&Bucket { bucket }).inc();
        let message = format!(
            "too many {bucket}: {} a second and {} at once are allowed; try again in {seconds} s, with the same request id if it has one",
            pace.per_second, pace.burst,
        );
        let status = with_wait(Status::resource_exhausted(message), seconds);
        // Counted by the metric, put together in the audit log; a line for each would be the flood again.
        Stop { identity: identity.clone(), status, outcome: "rate_limited", cause: None }
    }

    fn no_room(&self, identity: &Identity, room: NoRoom) -> Stop {
        self.inner.metrics.access_rate_limited.get_or_create(&Bucket { bucket: "streams" }).inc();
        let message = match room {
            NoRoom::OfCaller(most) => {
                format!("this caller has {most} streams open, the most that one may have; close some")
            }
            NoRoom::InAll(most) => {
                format!("this hub has {most} streams open, the most that it takes; try another replica or later")
            }
        };
        let status = with_wait(Status::resource_exhausted(message), RETRY_SOON.as_secs());
        Stop { identity: identity.clone(), status, outcome: "no_room", cause: None }
    }

    fn too_many_at_once(&self, identity: &Identity, most: usize) -> Stop {
        self.inner.metrics.access_rate_limited.get_or_create(&Bucket { bucket: "calls" }).inc();
        let message = format!(
            "{most} calls of this caller, or without a proof, are under way, the most at a time; wait for their answers and read them"
        );
        let status = with_wait(Status::resource_exhausted(message), RETRY_SOON.as_secs());
        Stop { identity: identity.clone(), status, outcome: "no_room", cause: None }
    }

    fn stopped(&self, stop: Stop, rpc: &'static str, path: &str, source: Option<IpAddr>) -> Response<Body> {
        let Stop { identity, status, outcome, cause } = stop;
        self.decided(outcome, &identity);
        if let Some(cause) = &cause {
            let source = source.map(|source| source.to_string()).unwrap_or_default();
            let (call, code, cause) = (escaped(path), super::code_word(status.code()), escaped(cause));
            tracing::info!(%identity, source, call, code, cause, "a call was refused at the door");
        }
        // The audit log is for those who may read everything: it says what the caller is not told.
        self.note(&identity, source, rpc, status.code(), cause.as_deref().unwrap_or(status.message()));
        status.into_http()
    }

    fn decided(&self, outcome: &'static str, identity: &Identity) {
        let decision = Decision { outcome, method: identity.method() };
        self.inner.metrics.access_decisions.get_or_create(&decision).inc();
    }

    /// For the audit log: somebody did not get what he asked for.
    pub(crate) fn note(
        &self,
        identity: &Identity,
        source: Option<IpAddr>,
        rpc: &'static str,
        code: Code,
        message: &str,
    ) {
        let refused = Refused { identity, source, rpc, code, message };
        self.inner.refusals.note(&refused, Timestamp::now());
    }

    /// A call that was let in and not done, when it is worth an entry: everything that was refused, and changes that failed.
    fn ended(&self, need: &Need, identity: &Identity, source: Option<IpAddr>, headers: &HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else { return };
        let refused = matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated | Code::ResourceExhausted);
        if status.code() != Code::Ok && (refused || need.kind == Kind::Change) {
            self.note(identity, source, need.rpc, status.code(), status.message());
        }
    }
}

/// One call.
async fn pass(State(guard): State<Gatekeeper>, mut request: Request, next: Next) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let need = need(&path);
    let rpc = need.map_or(UNKNOWN_CALL, |need| need.rpc);
    let peer = request.extensions().get::<PeerInfo>().cloned();
    let source = peer.as_ref().map(|peer| peer.address.ip());
    // Nothing that a caller could bring along is believed.
    request.extensions_mut().remove::<Access>();
    let proof = match guard.gate(need, peer.as_ref(), request.headers()).await {
        Ok(proof) => proof,
        Err(stop) => return guard.stopped(stop, rpc, &path, source),
    };
    let Some(need) = need else {
        // The gate lets no call through that is not in the table.
        return Status::unimplemented("this hub has no such call").into_http();
    };
    let identity = proof.identity.clone();
    request.extensions_mut().insert(Access::new(
        proof.identity.clone(),
        proof.grants.clone(),
        source,
        proof.expires_at,
    ));
    // What proves who calls is for nobody behind the gate.
    request.headers_mut().remove(http::header::AUTHORIZATION);
    if !MANY_MESSAGES.contains(&need.rpc) {
        request = request.map(|body| whole(body, WHOLE));
    }
    if !matches!(need.kind, Kind::Watch | Kind::Agent) {
        let place = match guard.inner.calls.enter(&identity, source) {
            Ok(place) => place,
            Err(most) => return guard.stopped(guard.too_many_at_once(&identity, most), rpc, &path, source),
        };
        guard.decided("allowed", &identity);
        let mut response = next.run(request).await;
        guard.ended(need, &identity, source, response.headers());
        // Until the answer was taken: what nobody reads is kept in memory.
        response.extensions_mut().insert(Keep::new(place));
        return response;
    }
    match guard.inner.streams.open(proof) {
        Ok(place) => {
            guard.decided("allowed", &identity);
            stream(guard, need, place, (identity, source), request, next).await
        }
        Err(room) => {
            let stop = guard.no_room(&identity, room);
            guard.stopped(stop, rpc, &path, source)
        }
    }
}

async fn stream(
    guard: Gatekeeper,
    need: &'static Need,
    place: Place,
    (identity, source): (Identity, Option<IpAddr>),
    request: Request,
    next: Next,
) -> Response<Body> {
    let request = request.map(|body| place.requests(body));
    let response = tokio::select! {
        response = next.run(request) => response,
        status = place.ended() => return status.into_http(),
    };
    guard.ended(need, &identity, source, response.headers());
    response.map(|body| place.answers(body, move |trailers| guard.ended(need, &identity, source, trailers)))
}

/// What the table asks for, as far as it can be said before the message is read. A sentence with what is missing.
fn allowed(need: &Need, proof: &Proof) -> Result<(), String> {
    let method = need.method();
    match (need.who, &proof.identity) {
        (Who::Anyone, _) | (_, Identity::Development) => Ok(()),
        (Who::Agent, Identity::Agent { .. }) => Ok(()),
        (Who::Agent, _) => Err(format!(
            "{method} is for the agents of clusters: connect with a certificate that this hub issued to one, and without a token; \
             `yardctl cluster join` begins it"
        )),
        (Who::Authenticated, Identity::Agent { .. }) if need.rpc.starts_with(HEALTH) => Ok(()),
        (_, Identity::Agent { .. }) => Err(format!(
            "{method} is for callers, and the certificate of an agent is none; use a token or a certificate of --tls-client-ca"
        )),
        (Who::Authenticated, _) => Ok(()),
        (Who::Role(role), _) if proof.grants.has_role_somewhere(role) => Ok(()),
        (Who::Role(role), _) => Err(lacks(proof, role, "what is called for").to_string()),
        (Who::HubRole(role), _) => proof.grants.check(role, &Touch::Hub).map_err(|denied| denied.to_string()),
    }
}

/// Somewhere: nothing is said of where, since that is only known when the message is read.
fn lacks(proof: &Proof, role: Role, touch: &str) -> Denied {
    let has = proof.grants.check(role, &Touch::Hub).err().map(|denied| denied.has).unwrap_or_default();
    Denied { needs: role, overrides: false, touch: touch.to_owned(), has }
}

/// With the whole seconds after which to try again, as HTTP has it (RFC 9110, section 10.2.3); the gateway hands it on.
fn with_wait(status: Status, seconds: u64) -> Status {
    let mut metadata = MetadataMap::new();
    if let Ok(seconds) = MetadataValue::from_str(&seconds.to_string()) {
        metadata.insert("retry-after", seconds);
    }
    Status::with_metadata(status.code(), status.message(), metadata)
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use switchyard_core::access::table::TABLE;
    use switchyard_proto::FILE_DESCRIPTOR_SET;

    use super::*;

    #[test]
    fn only_calls_that_the_descriptors_say_have_many_messages_may_take_their_time() {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        let services = pool.services();
        let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
        let many = methods.filter(prost_reflect::MethodDescriptor::is_client_streaming);
        let mut many: Vec<String> =
            many.map(|method| format!("{}/{}", method.parent_service().full_name(), method.name())).collect();
        // Reflection is of a library; health has no such call.
        many.push("grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned());
        many.sort();
        let mut ours = MANY_MESSAGES.map(str::to_owned).to_vec();
        ours.sort();
        assert_eq!(ours, many);
        assert!(MANY_MESSAGES.iter().all(|rpc| TABLE.iter().any(|need| need.rpc == *rpc)));
    }
}
