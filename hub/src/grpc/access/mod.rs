//! AccessService: join tokens, agents' certificates, service tokens, authorities; and who the caller is taken for. Every call but
//! WhoAmI needs a role over everything: the layer in front refuses others, and it is asked here again, so that a slip in one place
//! gives nobody access. Secrets are made here and shown once. Tests: `hub/tests/grpc_access.rs`.

mod fault;
mod parse;
mod show;

use aws_lc_rs::rand;
use jiff::{SignedDuration, Timestamp};
use switchyard_core::access::{
    Identity, Role, Touch,
    tokens::{Token, TokenKind},
};
use switchyard_proto::api::v1::{self as proto, access_service_server::AccessService};
use tonic::{Code, Request, Response, Status};

pub use fault::AccessFault;

use super::{Reading, caller, errors::ApiError};
use crate::{
    access::Access as Who,
    authority::Authority,
    store::{Caller, Store},
};

/// The service.
pub struct Access {
    store: Store,
    authority: Authority,
    reading: Reading,
}

impl Access {
    /// A service over this store and authority.
    pub fn new(store: Store, authority: Authority, reading: Reading) -> Self {
        Self { store, authority, reading }
    }

    async fn create_join(
        &self,
        caller: &Caller,
        request: &proto::CreateJoinTokenRequest,
    ) -> Result<proto::CreateJoinTokenResponse, ApiError> {
        admin(caller, "create a join token")?;
        let cluster = parse::cluster("cluster", &request.cluster)?;
        let ttl = parse::ttl(request.ttl_seconds, &parse::JOIN)?;
        if self.reading.picture()?.is_removed(&cluster) {
            let text = format!(
                "an operator removed cluster {cluster}, so its agent would not be let in; take it back first with `yardctl uncordon {cluster}`"
            );
            return Err(AccessFault::new(Code::FailedPrecondition, text).into());
        }
        let token = new_token(TokenKind::Join)?;
        let stored = self.store.join_token_create(caller, &cluster, ttl, &token).await?;
        tracing::info!(%cluster, token = stored.id, actor = caller.actor, "a join token was made");
        Ok(proto::CreateJoinTokenResponse { token: Some(show::to_proto_join_token(&stored)), secret: token.reveal() })
    }

    async fn list_joins(
        &self,
        caller: &Caller,
        request: &proto::ListJoinTokensRequest,
    ) -> Result<proto::ListJoinTokensResponse, ApiError> {
        admin(caller, "list join tokens")?;
        let cluster = super::optional("cluster", &request.cluster)?;
        let tokens = self.store.join_tokens(cluster.as_ref()).await?;
        Ok(proto::ListJoinTokensResponse { tokens: tokens.iter().map(show::to_proto_join_token).collect() })
    }

    async fn revoke_join(
        &self,
        caller: &Caller,
        request: &proto::RevokeJoinTokenRequest,
    ) -> Result<proto::RevokeJoinTokenResponse, ApiError> {
        admin(caller, "revoke a join token")?;
        let stored = self.store.join_token_revoke(caller, parse::token_id(&request.id)?).await?;
        tracing::info!(cluster = %stored.cluster, token = stored.id, actor = caller.actor, "a join token was revoked");
        Ok(proto::RevokeJoinTokenResponse { token: Some(show::to_proto_join_token(&stored)) })
    }

    async fn list_certificates(
        &self,
        caller: &Caller,
        request: &proto::ListAgentCertificatesRequest,
    ) -> Result<proto::ListAgentCertificatesResponse, ApiError> {
        viewer(caller, "list agents' certificates")?;
        let cluster = super::optional("cluster", &request.cluster)?;
        let stored = self.store.certificates(cluster.as_ref()).await?;
        let certificates = stored.iter().map(show::to_proto_certificate).collect();
        Ok(proto::ListAgentCertificatesResponse { certificates })
    }

    async fn revoke_certificates(
        &self,
        caller: &Caller,
        request: &proto::RevokeAgentCertificatesRequest,
    ) -> Result<proto::RevokeAgentCertificatesResponse, ApiError> {
        admin(caller, "revoke agents' certificates")?;
        let cluster = parse::cluster("cluster", &request.cluster)?;
        let serial = parse::serial(&request.serial)?;
        let revoked = self.store.certificates_revoke(caller, &cluster, serial.as_deref()).await?;
        tracing::info!(%cluster, count = revoked.len(), actor = caller.actor, "certificates of an agent were revoked");
        let certificates = revoked.iter().map(show::to_proto_certificate).collect();
        Ok(proto::RevokeAgentCertificatesResponse { certificates })
    }

    async fn create_service(
        &self,
        who: &Who,
        caller: &Caller,
        request: &proto::CreateServiceTokenRequest,
    ) -> Result<proto::CreateServiceTokenResponse, ApiError> {
        admin(caller, "create a service token")?;
        let name = parse::token_name(&request.name)?;
        let ttl = parse::ttl(request.ttl_seconds, &parse::SERVICE)?;
        let grants = parse::grants(&request.grants)?;
        if !who.grants().covers(&grants) {
            let text = format!(
                "{} may not give more than he has himself, and each grant has to lie within one of his; see them with `yardctl whoami`",
                caller.actor
            );
            return Err(AccessFault::new(Code::PermissionDenied, text).into());
        }
        not_outlived(who, ttl)?;
        let token = new_token(TokenKind::Service)?;
        let stored = self.store.service_token_create(caller, &name, &grants, ttl, &token).await?;
        tracing::info!(token = stored.name, actor = caller.actor, "a service token was made");
        Ok(proto::CreateServiceTokenResponse {
            token: Some(show::to_proto_service_token(&stored)),
            secret: token.reveal(),
        })
    }

    async fn list_services(&self, caller: &Caller) -> Result<proto::ListServiceTokensResponse, ApiError> {
        admin(caller, "list service tokens")?;
        let tokens = self.store.service_tokens().await?;
        Ok(proto::ListServiceTokensResponse { tokens: tokens.iter().map(show::to_proto_service_token).collect() })
    }

    async fn revoke_service(
        &self,
        caller: &Caller,
        request: &proto::RevokeServiceTokenRequest,
    ) -> Result<proto::RevokeServiceTokenResponse, ApiError> {
        admin(caller, "revoke a service token")?;
        let name = parse::token_name(&request.name)?;
        let stored = self.store.service_token_revoke(caller, &name).await?;
        tracing::info!(token = stored.name, actor = caller.actor, "a service token was revoked");
        Ok(proto::RevokeServiceTokenResponse { token: Some(show::to_proto_service_token(&stored)) })
    }

    async fn list_authorities(&self, caller: &Caller) -> Result<proto::ListAuthoritiesResponse, ApiError> {
        viewer(caller, "list authorities")?;
        let stored = self.store.authorities().await?;
        Ok(proto::ListAuthoritiesResponse { authorities: show::to_proto_authorities(&stored, Timestamp::now()) })
    }

    async fn rotate(&self, caller: &Caller) -> Result<proto::RotateAuthorityResponse, ApiError> {
        admin(caller, "rotate the authority")?;
        let stored = self.authority.rotate(caller).await?;
        tracing::info!(actor = caller.actor, "the authority of agents' certificates was rotated");
        Ok(proto::RotateAuthorityResponse { authorities: show::to_proto_authorities(&stored, Timestamp::now()) })
    }
}

fn admin(caller: &Caller, what: &str) -> Result<(), ApiError> {
    Ok(caller.may(Role::Admin, &Touch::Hub, what)?)
}

fn viewer(caller: &Caller, what: &str) -> Result<(), ApiError> {
    Ok(caller.may(Role::Viewer, &Touch::Hub, what)?)
}

/// A token must not prolong itself by making another one.
fn not_outlived(who: &Who, ttl: SignedDuration) -> Result<(), ApiError> {
    let (Identity::ServiceToken { .. }, Some(end)) = (who.identity(), who.expires_at()) else { return Ok(()) };
    let left = end.duration_since(Timestamp::now());
    if ttl <= left {
        return Ok(());
    }
    let value = ttl.as_secs().to_string();
    let remedy = format!("use at most {} seconds, or ask as somebody who is not a service token", left.as_secs());
    Err(ApiError::violation("ttl_seconds", &value, "is longer than the token lives that asks", &remedy))
}

fn new_token(kind: TokenKind) -> Result<Token, ApiError> {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    rand::fill(&mut id).and_then(|()| rand::fill(&mut secret)).map_err(|_| ApiError::Internal)?;
    Ok(Token::new(kind, id, secret))
}

fn of_change<T>(request: &Request<T>, request_id: &str, reason: &str) -> Caller {
    caller::caller(request, request_id, false, reason)
}

#[tonic::async_trait]
impl AccessService for Access {
    async fn who_am_i(
        &self,
        request: Request<proto::WhoAmIRequest>,
    ) -> Result<Response<proto::WhoAmIResponse>, Status> {
        self.reading.answer("WhoAmI", Ok(show::whoami(&Who::of(&request))))
    }

    async fn create_join_token(
        &self,
        request: Request<proto::CreateJoinTokenRequest>,
    ) -> Result<Response<proto::CreateJoinTokenResponse>, Status> {
        let body = request.get_ref();
        let caller = of_change(&request, &body.request_id, &body.reason);
        let result = self.create_join(&caller, body).await;
        self.reading.answer("CreateJoinToken", result)
    }

    async fn list_join_tokens(
        &self,
        request: Request<proto::ListJoinTokensRequest>,
    ) -> Result<Response<proto::ListJoinTokensResponse>, Status> {
        let result = self.list_joins(&caller::reader(&request), request.get_ref()).await;
        self.reading.answer("ListJoinTokens", result)
    }

    async fn revoke_join_token(
        &self,
        request: Request<proto::RevokeJoinTokenRequest>,
    ) -> Result<Response<proto::RevokeJoinTokenResponse>, Status> {
        let body = request.get_ref();
        let caller = of_change(&request, &body.request_id, &body.reason);
        let result = self.revoke_join(&caller, body).await;
        self.reading.answer("RevokeJoinToken", result)
    }

    async fn list_agent_certificates(
        &self,
        request: Request<proto::ListAgentCertificatesRequest>,
    ) -> Result<Response<proto::ListAgentCertificatesResponse>, Status> {
        let result = self.list_certificates(&caller::reader(&request), request.get_ref()).await;
        self.reading.answer("ListAgentCertificates", result)
    }

    async fn revoke_agent_certificates(
        &self,
        request: Request<proto::RevokeAgentCertificatesRequest>,
    ) -> Result<Response<proto::RevokeAgentCertificatesResponse>, Status> {
        let body = request.get_ref();
        let caller = of_change(&request, &body.request_id, &body.reason);
        let result = self.revoke_certificates(&caller, body).await;
        self.reading.answer("RevokeAgentCertificates", result)
    }

    async fn create_service_token(
        &self,
        request: Request<proto::CreateServiceTokenRequest>,
    ) -> Result<Response<proto::CreateServiceTokenResponse>, Status> {
        let body = request.get_ref();
        let caller = of_change(&request, &body.request_id, &body.reason);
        let result = self.create_service(&Who::of(&request), &caller, body).await;
        self.reading.answer("CreateServiceToken", result)
    }

    async fn list_service_tokens(
        &self,
        request: Request<proto::ListServiceTokensRequest>,
    ) -> Result<Response<proto::ListServiceTokensResponse>, Status> {
        let result = self.list_services(&caller::reader(&request)).await;
        self.reading.answer("ListServiceTokens", result)
    }

    async fn revoke_service_token(
        &self,
        request: Request<proto::RevokeServiceTokenRequest>,
    ) -> Result<Response<proto::RevokeServiceTokenResponse>, Status> {
        let body = request.get_ref();
        let caller = of_change(&request, &body.request_id, &body.reason);
        let result = self.revoke_service(&caller, body).await;
        self.reading.answer("RevokeServiceToken", result)
    }

    async fn list_authorities(
        &self,
        request: Request<proto::ListAuthoritiesRequest>,
    ) -> Result<Response<proto::ListAuthoritiesResponse>, Status> {
        let result = self.list_authorities(&caller::reader(&request)).await;
        self.reading.answer("ListAuthorities", result)
    }

    async fn rotate_authority(
        &self,
        request: Request<proto::RotateAuthorityRequest>,
    ) -> Result<Response<proto::RotateAuthorityResponse>, Status> {
        let body = request.get_ref();
        let caller = of_change(&request, &body.request_id, &body.reason);
        let result = self.rotate(&caller).await;
        self.reading.answer("RotateAuthority", result)
    }
}
