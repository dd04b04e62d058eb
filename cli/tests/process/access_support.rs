//! The scripted hub's service for access: each call takes the next answer of its own queue, and is kept.

use std::sync::Mutex;

use switchyard_proto::api::v1::{self as pb, access_service_server::AccessService};
use tonic::{Request, Response, Status};

use crate::support::{Answer, Queue, Service, next};

/// What the hub will answer.
#[derive(Default)]
pub struct AccessScript {
    pub who: Queue<pb::WhoAmIResponse>,
    pub join: Queue<pb::CreateJoinTokenResponse>,
    pub join_tokens: Queue<pb::ListJoinTokensResponse>,
    pub revoke_join: Queue<pb::RevokeJoinTokenResponse>,
    pub certificates: Queue<pb::ListAgentCertificatesResponse>,
    pub revoke_certificates: Queue<pb::RevokeAgentCertificatesResponse>,
    pub create: Queue<pb::CreateServiceTokenResponse>,
    pub tokens: Queue<pb::ListServiceTokensResponse>,
    pub revoke: Queue<pb::RevokeServiceTokenResponse>,
    pub authorities: Queue<pb::ListAuthoritiesResponse>,
    pub rotate: Queue<pb::RotateAuthorityResponse>,
}

/// What the hub was asked.
#[derive(Default)]
pub struct AccessSeen {
    pub join: Mutex<Vec<pb::CreateJoinTokenRequest>>,
    pub join_tokens: Mutex<Vec<pb::ListJoinTokensRequest>>,
    pub revoke_join: Mutex<Vec<pb::RevokeJoinTokenRequest>>,
    pub certificates: Mutex<Vec<pb::ListAgentCertificatesRequest>>,
    pub revoke_certificates: Mutex<Vec<pb::RevokeAgentCertificatesRequest>>,
    pub create: Mutex<Vec<pb::CreateServiceTokenRequest>>,
    pub revoke: Mutex<Vec<pb::RevokeServiceTokenRequest>>,
    pub rotate: Mutex<Vec<pb::RotateAuthorityRequest>>,
}

/// A caller with this role over everything.
pub fn everything(role: pb::Role) -> Answer<pb::WhoAmIResponse> {
    let grant =
        pb::Grant { role: role as i32, namespaces: vec!["*".into()], clusters: vec!["*".into()], overrides: false };
    caller(vec![grant])
}

/// A caller with these grants.
pub fn caller(grants: Vec<pb::Grant>) -> Answer<pb::WhoAmIResponse> {
    Answer::Ok(pb::WhoAmIResponse { identity: "token:ci".into(), method: "token".into(), grants, expires_at: None })
}

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AccessService for Service {
    async fn who_am_i(&self, _: Request<pb::WhoAmIRequest>) -> Answered<pb::WhoAmIResponse> {
        next("WhoAmI", &self.script.access.who).await.map(Response::new)
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Answered<pb::CreateJoinTokenResponse> {
        self.seen.access.join.lock().unwrap().push(request.into_inner());
        next("CreateJoinToken", &self.script.access.join).await.map(Response::new)
    }

    async fn list_join_tokens(
        &self,
        request: Request<pb::ListJoinTokensRequest>,
    ) -> Answered<pb::ListJoinTokensResponse> {
        self.seen.access.join_tokens.lock().unwrap().push(request.into_inner());
        next("ListJoinTokens", &self.script.access.join_tokens).await.map(Response::new)
    }

    async fn revoke_join_token(
        &self,
        request: Request<pb::RevokeJoinTokenRequest>,
    ) -> Answered<pb::RevokeJoinTokenResponse> {
        self.seen.access.revoke_join.lock().unwrap().push(request.into_inner());
        next("RevokeJoinToken", &self.script.access.revoke_join).await.map(Response::new)
    }

    async fn list_agent_certificates(
        &self,
        request: Request<pb::ListAgentCertificatesRequest>,
    ) -> Answered<pb::ListAgentCertificatesResponse> {
        self.seen.access.certificates.lock().unwrap().push(request.into_inner());
        next("ListAgentCertificates", &self.script.access.certificates).await.map(Response::new)
    }

    async fn revoke_agent_certificates(
        &self,
        request: Request<pb::RevokeAgentCertificatesRequest>,
    ) -> Answered<pb::RevokeAgentCertificatesResponse> {
        self.seen.access.revoke_certificates.lock().unwrap().push(request.into_inner());
        next("RevokeAgentCertificates", &self.script.access.revoke_certificates).await.map(Response::new)
    }

    async fn create_service_token(
        &self,
        request: Request<pb::CreateServiceTokenRequest>,
    ) -> Answered<pb::CreateServiceTokenResponse> {
        self.seen.access.create.lock().unwrap().push(request.into_inner());
        next("CreateServiceToken", &self.script.access.create).await.map(Response::new)
    }

    async fn list_service_tokens(
        &self,
        _: Request<pb::ListServiceTokensRequest>,
    ) -> Answered<pb::ListServiceTokensResponse> {
        next("ListServiceTokens", &self.script.access.tokens).await.map(Response::new)
    }

    async fn revoke_service_token(
        &self,
        request: Request<pb::RevokeServiceTokenRequest>,
    ) -> Answered<pb::RevokeServiceTokenResponse> {
        self.seen.access.revoke.lock().unwrap().push(request.into_inner());
        next("RevokeServiceToken", &self.script.access.revoke).await.map(Response::new)
    }

    async fn list_authorities(&self, _: Request<pb::ListAuthoritiesRequest>) -> Answered<pb::ListAuthoritiesResponse> {
        next("ListAuthorities", &self.script.access.authorities).await.map(Response::new)
    }

    async fn rotate_authority(
        &self,
        request: Request<pb::RotateAuthorityRequest>,
    ) -> Answered<pb::RotateAuthorityResponse> {
        self.seen.access.rotate.lock().unwrap().push(request.into_inner());
        next("RotateAuthority", &self.script.access.rotate).await.map(Response::new)
    }
}
