//! EnrollmentService: an agent's first certificate, for a join token or a token of its ServiceAccount, and every later one, for the
//! one before. The cluster comes from the proof; what the agent says of itself must agree. Of the request to sign the public key is
//! taken. A certificate is given away only after the store has noted it, with its proof, in one transaction. Tests:
//! `hub/tests/grpc_enrollment.rs`.

use jiff::Timestamp;
use switchyard_core::{
    access::{
        Identity,
        tokens::{JoinRefused, Token, TokenKind},
    },
    ids::{ClusterName, cut},
};
use switchyard_proto::agent::v1::{self as proto, enroll_request, enrollment_service_server::EnrollmentService};
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use super::{Reading, access::AccessFault, convert::to_proto_time, errors::ApiError, once::Once};
use crate::{
    access::{Access, AccountRefused, Gatekeeper},
    authority::{Authority, Leaf, csr},
    door::{PeerCertificate, PeerInfo, RootSet},
    store::{
        Store,
        access::certificates::{Asking, IssueError, NewCertificate, Proof, Shown},
    },
};

/// Characters of a join token, and of a ServiceAccount token.
const MOST_JOIN_TOKEN: usize = 256;
const MOST_ACCOUNT_TOKEN: usize = 8192;

/// The service.
pub struct Enrollment {
    store: Store,
    authority: Authority,
    gate: Gatekeeper,
    reading: Reading,
    said: Once,
}

/// Who asks for what.
struct Ask {
    cluster: ClusterName,
    proof: Proof,
    key: csr::PublicKey,
    instance: Uuid,
    source: String,
}

impl Enrollment {
    /// A service over this store and authority, which asks the gate about ServiceAccounts.
    pub fn new(store: Store, authority: Authority, gate: Gatekeeper, reading: Reading, said: Once) -> Self {
        Self { store, authority, gate, reading, said }
    }

    async fn enroll_agent(
        &self,
        access: &Access,
        request: &proto::EnrollRequest,
    ) -> Result<proto::IssuedCertificate, ApiError> {
        let cluster: ClusterName = request.cluster.parse().map_err(|error| ApiError::field("cluster", error))?;
        let instance = instance(&request.agent_instance_id)?;
        // Before the proof: whoever sends nonsense learns nothing about a token.
        let key = public_key(&request.csr_pem)?;
        let proof = self.proof(access, &cluster, &key, request).await?;
        self.issue(Ask { cluster, proof, key, instance, source: access.source() }).await
    }

    async fn renew(
        &self,
        access: &Access,
        shown: Option<Shown>,
        request: &proto::RenewCertificateRequest,
    ) -> Result<proto::IssuedCertificate, ApiError> {
        let (Identity::Agent { cluster, .. }, Some(shown)) = (access.identity(), shown) else {
            let text = "only an agent that shows its certificate gets the next one; get the first one with Enroll";
            return Err(AccessFault::new(Code::PermissionDenied, text).into());
        };
        let instance = instance(&request.agent_instance_id)?;
        let key = public_key(&request.csr_pem)?;
        let proof = Proof::Certificate(shown);
        self.issue(Ask { cluster: cluster.clone(), proof, key, instance, source: access.source() }).await
    }

    async fn proof(
        &self,
        access: &Access,
        cluster: &ClusterName,
        key: &csr::PublicKey,
        request: &proto::EnrollRequest,
    ) -> Result<Proof, ApiError> {
        let too_long = |field: &str, text: &str, most: usize| {
            let (problem, remedy) = (format!("has {} characters", text.len()), format!("use at most {most}"));
            // Not the value: it is a secret.
            ApiError::violation(field, "(a token)", &problem, &remedy)
        };
        match &request.proof {
            Some(enroll_request::Proof::JoinToken(text)) if text.len() > MOST_JOIN_TOKEN => {
                Err(too_long("join_token", text, MOST_JOIN_TOKEN))
            }
            Some(enroll_request::Proof::JoinToken(text)) => {
                let token = Token::parse(text.trim()).filter(|token| token.kind == TokenKind::Join);
                let token = token.ok_or_else(|| not_a_join_token(cluster))?;
                Ok(Proof::JoinToken { token, key: key.hash })
            }
            Some(enroll_request::Proof::ServiceAccountToken(text)) if text.len() > MOST_ACCOUNT_TOKEN => {
                Err(too_long("service_account_token", text, MOST_ACCOUNT_TOKEN))
            }
            Some(enroll_request::Proof::ServiceAccountToken(text)) => {
                let source = access.source_address();
                match self.gate.verify_service_account(text.trim(), Some(cluster), source).await {
                    Ok(account) => Ok(Proof::ServiceAccount { subject: account.subject }),
                    Err(refused) => Err(account_refused(cluster, &refused)),
                }
            }
            None => {
                let remedy = "give join_token (yardctl cluster join makes one) or service_account_token";
                Err(ApiError::violation("proof", "", "is missing", remedy))
            }
        }
    }

    async fn issue(&self, ask: Ask) -> Result<proto::IssuedCertificate, ApiError> {
        let Ask { cluster, proof, key, instance, source } = &ask;
        let now = Timestamp::now();
        let leaf = self.authority.issue(cluster, key, now)?;
        let new = NewCertificate {
            cluster: cluster.clone(),
            serial: leaf.serial.clone(),
            fingerprint: leaf.fingerprint.clone(),
            authority: leaf.authority.clone(),
            instance: instance.to_string(),
            issued_at: now,
            not_after: leaf.life.not_after,
        };
        let actor = format!("agent:{cluster}");
        let asking = Asking { actor: &actor, source };
        match self.store.certificate_issue(&asking, &new, proof).await {
            Ok(()) => {
                let (serial, proof, not_after) = (&leaf.serial, proof.word(), leaf.life.not_after);
                tracing::info!(%cluster, serial, proof, %not_after, source, "an agent got a certificate");
                Ok(to_proto_issued(cluster, leaf))
            }
            Err(error) => {
                self.note(&ask, &error).await;
                Err(refused(cluster, error))
            }
        }
    }

    /// In the log and the audit log, once in a while for each token: whoever has a used token may show it as often as he likes, from
    /// as many addresses as he likes. The layer in front counts the others as refused calls.
    async fn note(&self, ask: &Ask, error: &IssueError) {
        let Ask { cluster, proof, source, .. } = ask;
        let Some(action) = error.action() else { return };
        let shown = match proof {
            Proof::JoinToken { token, .. } => token.id.as_str(),
            Proof::ServiceAccount { subject } => subject,
            Proof::Certificate(shown) => &shown.serial,
        };
        if !self.said.is_news(format!("{action} {shown}")) {
            return;
        }
        let (proof_word, why) = (proof.word(), error.to_string());
        tracing::warn!(%cluster, action, proof = proof_word, shown, why, source, "an agent was refused a certificate");
        // A ServiceAccount or a certificate says who it is; a token in the wrong hands says nothing.
        let actor = match proof {
            Proof::JoinToken { .. } => Identity::Anonymous.to_string(),
            Proof::ServiceAccount { .. } | Proof::Certificate(_) => format!("agent:{cluster}"),
        };
        let asking = Asking { actor: &actor, source };
        if let Err(error) = self.store.certificate_refused(&asking, cluster, proof, error).await {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "a refused certificate could not be noted in the audit log");
        }
    }
}

/// The certificate that an agent showed; none: nobody's, or a caller's.
pub(super) fn shown<T>(request: &Request<T>) -> Option<Shown> {
    let certificate = request.extensions().get::<PeerInfo>()?.certificate.as_deref()?;
    let PeerCertificate { set: RootSet::Agents, serial, fingerprint, not_after, authority, .. } = certificate else {
        return None;
    };
    Some(Shown {
        serial: serial.clone(),
        fingerprint: fingerprint.clone(),
        authority: authority.clone().unwrap_or_default(),
        not_after: *not_after,
    })
}

fn instance(text: &str) -> Result<Uuid, ApiError> {
    let remedy = "use a UUID that is new with each start of the agent";
    let bad = |_| ApiError::violation("agent_instance_id", text, "is no UUID", remedy);
    text.parse().map_err(bad)
}

fn public_key(pem: &str) -> Result<csr::PublicKey, ApiError> {
    csr::public_key(pem).map_err(|fault| ApiError::Invalid(vec![fault]))
}

/// One sentence for every reason: whoever found a token learns nothing from trying.
fn not_a_join_token(cluster: &ClusterName) -> ApiError {
    let text = format!(
        "the join token gives no certificate for cluster {cluster} and this key: it was used, revoked, has expired, is for another cluster, \
         or never was one; make a new one with `yardctl cluster join {cluster}`"
    );
    AccessFault::new(Code::Unauthenticated, text).into()
}

fn account_refused(cluster: &ClusterName, refused: &AccountRefused) -> ApiError {
    let why = refused.to_string();
    tracing::info!(%cluster, why = cut(&why), "a ServiceAccount token was refused");
    match refused {
        AccountRefused::Away(_) => {
            let text =
                "the ServiceAccount token cannot be judged now: the keys of its issuer are not known yet; try again";
            AccessFault::new(Code::Unavailable, text).into()
        }
        AccountRefused::Token(_) | AccountRefused::OtherCluster { .. } => {
            let text = format!(
                "the ServiceAccount token gives no certificate for cluster {cluster}; issuer, audience and ServiceAccount have to be those \
                 of `agents` in the hub's access file, and the hub's log says which is not"
            );
            AccessFault::new(Code::Unauthenticated, text).into()
        }
    }
}

fn refused(cluster: &ClusterName, error: IssueError) -> ApiError {
    let fault = match error {
        IssueError::Store(error) => return error.into(),
        IssueError::UnknownToken
        | IssueError::Join(
            JoinRefused::Expired | JoinRefused::Revoked | JoinRefused::Replayed | JoinRefused::OtherCluster,
        ) => return not_a_join_token(cluster),
        IssueError::Revoked(serial) => AccessFault::new(
            Code::Unauthenticated,
            format!("certificate {serial} was revoked; make a join token with `yardctl cluster join {cluster}`"),
        ),
        IssueError::Forged(serial) => AccessFault::new(
            Code::Unauthenticated,
            format!(
                "certificate {serial} is another one than that which is shown; make a join token with `yardctl cluster join {cluster}`"
            ),
        ),
        IssueError::OtherCluster(serial) => AccessFault::new(
            Code::PermissionDenied,
            format!("certificate {serial} was not issued to cluster {cluster}"),
        ),
        IssueError::NotNoted(serial) => AccessFault::new(
            Code::Unauthenticated,
            format!(
                "certificate {serial} is not known to this hub, and its authority was replaced; make a join token with `yardctl cluster \
                 join {cluster}`"
            ),
        ),
        IssueError::TooMany(cluster) => AccessFault::new(
            Code::ResourceExhausted,
            format!(
                "cluster {cluster} got too many certificates within an hour; its agent has to keep what it gets; try again later"
            ),
        ),
        IssueError::Removed(cluster) => AccessFault::new(
            Code::FailedPrecondition,
            format!(
                "an operator removed cluster {cluster}; stop its agent, or take the cluster back with `yardctl uncordon {cluster}`"
            ),
        ),
        IssueError::UnknownAuthority(_) => {
            AccessFault::new(Code::Unavailable, "the authority was replaced at this moment; try again")
        }
    };
    fault.into()
}

fn to_proto_issued(cluster: &ClusterName, leaf: Leaf) -> proto::IssuedCertificate {
    proto::IssuedCertificate {
        cluster: cluster.to_string(),
        chain_pem: leaf.chain_pem,
        serial: leaf.serial,
        not_before: Some(to_proto_time(leaf.life.not_before)),
        not_after: Some(to_proto_time(leaf.life.not_after)),
        renew_at: Some(to_proto_time(leaf.life.renew_at)),
    }
}

#[tonic::async_trait]
impl EnrollmentService for Enrollment {
    async fn enroll(&self, request: Request<proto::EnrollRequest>) -> Result<Response<proto::EnrollResponse>, Status> {
        let result = self.enroll_agent(&Access::of(&request), request.get_ref()).await;
        let result = result.map(|issued| proto::EnrollResponse { certificate: Some(issued) });
        self.reading.answer("Enroll", result)
    }

    async fn renew_certificate(
        &self,
        request: Request<proto::RenewCertificateRequest>,
    ) -> Result<Response<proto::RenewCertificateResponse>, Status> {
        let result = self.renew(&Access::of(&request), shown(&request), request.get_ref()).await;
        let result = result.map(|issued| proto::RenewCertificateResponse { certificate: Some(issued) });
        self.reading.answer("RenewCertificate", result)
    }
}
