//! `token`: service tokens, for programs that have no other identity.

use std::path::PathBuf;

use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{
    Context,
    join::look,
    request_id,
    secret::{SecretFile, deliver},
};
use crate::{
    args::{CreateToken, GrantedRole, Revocation, TokenAccess},
    error::{Exit, Failure, Kind},
    hub::Hub,
    model::{Grant, ServiceToken},
    render,
    text::plain,
};

pub async fn run(context: &Context, what: TokenAccess) -> Result<(), Failure> {
    match what {
        TokenAccess::Create(args) => create(context, args).await,
        TokenAccess::List => list(context).await,
        TokenAccess::Revoke { name, revocation } => revoke(context, name, revocation).await,
    }
}

/// What `-o json|yaml` shows of a new token.
#[derive(Serialize)]
struct Created {
    request_id: String,
    token: ServiceToken,
    /// The token itself; `null` when it is in the file.
    secret: Option<String>,
    file: Option<PathBuf>,
}

async fn create(context: &Context, args: CreateToken) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let file = args.out.as_deref().map(SecretFile::create).transpose()?;
    let what = format!("cannot make the service token {}", args.name);
    let request_id = request_id(args.request_id);
    let role = match args.role {
        GrantedRole::Viewer => pb::Role::Viewer,
        GrantedRole::Operator => pb::Role::Operator,
        GrantedRole::Admin => pb::Role::Admin,
    };
    let grant = pb::Grant {
        role: role as i32,
        namespaces: args.namespaces,
        clusters: args.clusters,
        overrides: args.overrides,
    };
    let message = pb::CreateServiceTokenRequest {
        request_id: request_id.clone(),
        name: args.name.clone(),
        grants: vec![grant],
        ttl_seconds: args.ttl,
        reason: args.reason,
    };
    let send = async |channel, request| Hub::access(channel).create_service_token(request).await;
    let answer = hub.call(&what, Kind::Write { request_id: &request_id }, message, send).await;
    let answer = answer.map_err(|failure| look(failure, "yardctl token list"))?;
    let token = token_of(&what, answer.token)?;
    let undo = format!("yardctl token revoke {} --reason lost", args.name);
    let file = deliver(&what, &answer.secret, file, &undo)?;
    let secret = file.is_none().then_some(answer.secret);
    let created = Created { request_id, token, secret, file };
    context.output.show(&created, |_, now| {
        let token = &created.token;
        let mut text = created.secret.iter().map(|secret| format!("{}\n", plain(secret))).collect::<String>();
        let may = token.grants.iter().map(Grant::to_string).collect::<Vec<_>>().join("; ");
        let ends = token.expires_at.map(|at| format!(", until {}", render::moment(at, now))).unwrap_or_default();
        let place = match &created.file {
            Some(file) => format!("is in {}", file.display()),
            None => "is shown this once".to_owned(),
        };
        text.push_str(&format!("{}\n", plain(&format!("service token {} {place}: {may}{ends}", token.name))));
        text
    })
}

fn token_of(what: &str, token: Option<pb::ServiceToken>) -> Result<ServiceToken, Failure> {
    token.map(ServiceToken::from).ok_or_else(|| {
        Failure::new(Exit::Internal, what, "the hub answered without a token", "look into the hub's log")
    })
}

async fn list(context: &Context) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let send = async |channel, request| Hub::access(channel).list_service_tokens(request).await;
    let answer = hub.call("cannot list the service tokens", Kind::Read, pb::ListServiceTokensRequest {}, send).await?;
    #[derive(Serialize)]
    struct Tokens {
        tokens: Vec<ServiceToken>,
    }
    let list = Tokens { tokens: answer.tokens.into_iter().map(ServiceToken::from).collect() };
    context.output.show(&list, |paint, now| render::service_tokens(&list.tokens, paint, now))
}

async fn revoke(context: &Context, name: String, revocation: Revocation) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let what = format!("cannot revoke the service token {name}");
    let request_id = request_id(revocation.request_id);
    let message = pb::RevokeServiceTokenRequest { request_id: request_id.clone(), name, reason: revocation.reason };
    let send = async |channel, request| Hub::access(channel).revoke_service_token(request).await;
    let answer = hub.call(&what, Kind::Write { request_id: &request_id }, message, send).await;
    let answer = answer.map_err(|failure| look(failure, "yardctl token list"))?;
    #[derive(Serialize)]
    struct Revoked {
        request_id: String,
        token: ServiceToken,
    }
    let revoked = Revoked { request_id, token: token_of(&what, answer.token)? };
    context.output.show(&revoked, |_, _| {
        format!("{}\n", plain(&format!("service token {} is of no use any more", revoked.token.name)))
    })
}
