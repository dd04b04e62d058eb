//! `whoami` and `authority`: who the hub takes the caller for, and where the agents' certificates come from.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{Context, request_id};
use crate::{
    args::AuthorityChange,
    error::{Failure, Kind},
    hub::Hub,
    model::{Authority, Caller},
    render,
};

/// Asks the hub who it takes the caller for.
pub async fn ask(hub: &Hub) -> Result<Caller, Failure> {
    let send = async |channel, request| Hub::access(channel).who_am_i(request).await;
    let answer = hub.call("cannot ask who I am", Kind::Read, pb::WhoAmIRequest {}, send).await?;
    Ok(answer.into())
}

pub async fn who_am_i(context: &Context) -> Result<(), Failure> {
    let caller = ask(&context.hub(false)?).await?;
    context.output.show(&caller, |paint, now| render::caller(&caller, paint, now))
}

#[derive(Serialize)]
struct Authorities {
    /// Nothing for a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    authorities: Vec<Authority>,
}

pub async fn authority(context: &Context, what: AuthorityChange) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let list = match what {
        AuthorityChange::List => {
            let send = async |channel, request| Hub::access(channel).list_authorities(request).await;
            let message = pb::ListAuthoritiesRequest {};
            let answer = hub.call("cannot list the authorities", Kind::Read, message, send).await?;
            Authorities { request_id: None, authorities: answer.authorities.into_iter().map(Into::into).collect() }
        }
        AuthorityChange::Rotate { revocation } => {
            let request_id = request_id(revocation.request_id);
            let message = pb::RotateAuthorityRequest { request_id: request_id.clone(), reason: revocation.reason };
            let send = async |channel, request| Hub::access(channel).rotate_authority(request).await;
            let kind = Kind::Write { request_id: &request_id };
            let answer = hub.call("cannot make a new authority", kind, message, send).await?;
            let authorities = answer.authorities.into_iter().map(Into::into).collect();
            Authorities { request_id: Some(request_id), authorities }
        }
    };
    context.output.show(&list, |paint, now| render::authorities(&list.authorities, paint, now))
}
