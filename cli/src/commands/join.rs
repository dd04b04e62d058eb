//! `cluster`: join tokens and certificates of the agents.

use std::path::PathBuf;

use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{
    Context, request_id,
    secret::{SecretFile, deliver},
};
use crate::{
    args::{ClusterAccess, Join, Revocation, RevokeCertificates},
    error::{Exit, Failure, Kind},
    hub::{Hub, is_here},
    joining::{At, commands, hint},
    model::{AgentCertificate, JoinToken},
    render,
    text::{count, plain},
};

pub async fn run(context: &Context, what: ClusterAccess) -> Result<(), Failure> {
    match what {
        ClusterAccess::Join(args) => join(context, args).await,
        ClusterAccess::Tokens { cluster } => tokens(context, cluster.unwrap_or_default()).await,
        ClusterAccess::RevokeToken { id, revocation } => revoke_token(context, id, revocation).await,
        ClusterAccess::Certificates { cluster } => certificates(context, cluster.unwrap_or_default()).await,
        ClusterAccess::Revoke(args) => revoke(context, args).await,
    }
}

/// What `-o json|yaml` shows of a new token.
#[derive(Serialize)]
struct Joined {
    request_id: String,
    token: JoinToken,
    /// The token itself; `null` when it is in the file.
    secret: Option<String>,
    file: Option<PathBuf>,
    commands: Vec<String>,
}

async fn join(context: &Context, args: Join) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let file = args.out.as_deref().map(SecretFile::create).transpose()?;
    let what = format!("cannot make a join token for {}", args.cluster);
    let request_id = request_id(args.request_id);
    let message = pb::CreateJoinTokenRequest {
        request_id: request_id.clone(),
        cluster: args.cluster.clone(),
        ttl_seconds: args.ttl,
        reason: args.reason,
    };
    let send = async |channel, request| Hub::access(channel).create_join_token(request).await;
    let answer = hub.call(&what, Kind::Write { request_id: &request_id }, message, send).await?;
    let token = token_of(&what, answer.token)?;
    let undo = format!("yardctl cluster revoke-token {} --reason lost", token.id);
    let file = deliver(&what, &answer.secret, file, &undo)?;
    let at = file.as_deref().map_or(At::Text(&answer.secret), At::File);
    let (hub, authority) = (context.global.hub.as_str(), context.global.tls_ca.as_deref());
    let commands = commands(&args.cluster, Some(hub).filter(|hub| !is_here(hub)), authority, at);
    let secret = file.is_none().then_some(answer.secret);
    let joined = Joined { request_id, token, secret, file, commands };
    context.output.show(&joined, |_, now| {
        let mut text = joined.secret.iter().map(|secret| format!("{}\n", plain(secret))).collect::<String>();
        let ends = joined.token.expires_at.map(|at| format!(", until {}", render::moment(at, now))).unwrap_or_default();
        let place = match &joined.file {
            Some(file) => format!("is in {}", file.display()),
            None => "is shown this once".to_owned(),
        };
        let line = format!("join token {} {place}; it lets {} in once{ends}", joined.token.id, joined.token.cluster);
        text.push_str(&format!("{}\n\nWith kubectl and helm at that cluster:\n", plain(&line)));
        joined.commands.iter().for_each(|command| text.push_str(&format!("  {}\n", plain(command))));
        text.push_str("Fill in what is written in capitals; see docs/access.md.\n");
        text.push_str(&format!("{}\n", hint()));
        text
    })
}

fn token_of(what: &str, token: Option<pb::JoinToken>) -> Result<JoinToken, Failure> {
    token.map(JoinToken::from).ok_or_else(|| {
        Failure::new(Exit::Internal, what, "the hub answered without a token", "look into the hub's log")
    })
}

async fn tokens(context: &Context, cluster: String) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let send = async |channel, request| Hub::access(channel).list_join_tokens(request).await;
    let message = pb::ListJoinTokensRequest { cluster };
    let answer = hub.call("cannot list the join tokens", Kind::Read, message, send).await?;
    #[derive(Serialize)]
    struct Tokens {
        tokens: Vec<JoinToken>,
    }
    let list = Tokens { tokens: answer.tokens.into_iter().map(JoinToken::from).collect() };
    context.output.show(&list, |paint, now| render::join_tokens(&list.tokens, paint, now))
}

async fn revoke_token(context: &Context, id: String, revocation: Revocation) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let what = format!("cannot revoke join token {id}");
    let request_id = request_id(revocation.request_id);
    let message = pb::RevokeJoinTokenRequest { request_id: request_id.clone(), id, reason: revocation.reason };
    let send = async |channel, request| Hub::access(channel).revoke_join_token(request).await;
    let answer = hub.call(&what, Kind::Write { request_id: &request_id }, message, send).await;
    let answer = answer.map_err(|failure| look(failure, "yardctl cluster tokens"))?;
    #[derive(Serialize)]
    struct Revoked {
        request_id: String,
        token: JoinToken,
    }
    let revoked = Revoked { request_id, token: token_of(&what, answer.token)? };
    context.output.show(&revoked, |_, _| {
        let token = &revoked.token;
        format!("{}\n", plain(&format!("join token {} of {} is of no use any more", token.id, token.cluster)))
    })
}

/// The remedies of policies do not help here.
pub fn look(failure: Failure, with: &str) -> Failure {
    match failure.exit {
        Exit::NotFound => Failure { remedy: format!("look for the right name with `{with}`"), ..failure },
        Exit::Conflict => Failure { remedy: format!("look with `{with}`, then decide again"), ..failure },
        _ => failure,
    }
}

async fn certificates(context: &Context, cluster: String) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let send = async |channel, request| Hub::access(channel).list_agent_certificates(request).await;
    let message = pb::ListAgentCertificatesRequest { cluster };
    let answer = hub.call("cannot list the certificates", Kind::Read, message, send).await?;
    #[derive(Serialize)]
    struct Certificates {
        certificates: Vec<AgentCertificate>,
    }
    let list = Certificates { certificates: answer.certificates.into_iter().map(AgentCertificate::from).collect() };
    context.output.show(&list, |paint, now| render::certificates(&list.certificates, paint, now))
}

async fn revoke(context: &Context, args: RevokeCertificates) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let what = format!("cannot revoke certificates of {}", args.cluster);
    let request_id = request_id(args.request_id);
    let message = pb::RevokeAgentCertificatesRequest {
        request_id: request_id.clone(),
        cluster: args.cluster.clone(),
        serial: args.serial,
        reason: args.reason,
    };
    let send = async |channel, request| Hub::access(channel).revoke_agent_certificates(request).await;
    let answer = hub.call(&what, Kind::Write { request_id: &request_id }, message, send).await;
    let answer = answer.map_err(|failure| look(failure, "yardctl cluster certificates"))?;
    #[derive(Serialize)]
    struct Revoked {
        request_id: String,
        certificates: Vec<AgentCertificate>,
    }
    let certificates = answer.certificates.into_iter().map(AgentCertificate::from).collect();
    let revoked = Revoked { request_id, certificates };
    context.output.show(&revoked, |_, _| match revoked.certificates.len() {
        0 => format!("{}\n", plain(&format!("{} has no certificate that could be revoked", args.cluster))),
        1 if revoked.certificates[0].proof == "none" => {
            let serial = &revoked.certificates[0].serial;
            let text = format!(
                "the hub never saw certificate {serial} of {}; it is revoked all the same and will be refused; was the number right?",
                args.cluster
            );
            format!("{}\n", plain(&text))
        }
        number => {
            let of = format!(
                "{} of {} revoked; what was opened with it ends within seconds",
                count(number, "certificate"),
                args.cluster
            );
            format!("{}\n", plain(&of))
        }
    })
}
